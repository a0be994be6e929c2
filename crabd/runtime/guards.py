"""What the gate works with and others provide: rules, hooks, what keeps files, what confines processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct, field

from crabd.events import Confirmation, PendingQuestion
from crabd.masking import Masker
from crabd.runtime.editors import Editors
from crabd.runtime.hooks import HookedCall, HookVerdict
from crabd.tools.base import Confinement, Preserver, ToolOutcome


class Hooks(Protocol):
    """The commands of a person that are run around calls."""

    async def before_tool(self, call: HookedCall) -> HookVerdict:
        """Run those that stand before a call. One that fails or takes too long blocks it."""
        ...

    async def after_tool(self, call: HookedCall, outcome: ToolOutcome) -> str:
        """Run those that stand behind a call; returns what the model is to read besides its outcome."""
        ...

    def notify(self, waiting: Confirmation | PendingQuestion) -> None:
        """Have it told elsewhere that a person is waited for; returns at once."""
        ...


class Artifacts(Protocol):
    """Keeps outputs that are too long for a model."""

    async def keep(self, session: str, call: str, text: str) -> str:
        """Keep a text as a file; returns its path, which the tool ``read`` takes.

        Raises:
          OSError: it cannot be kept.
        """
        ...


class Guards(Struct, frozen=True, kw_only=True):
    """What the gates of all sessions work with.

    ``preserver`` is made for a session, a run and a call. What models and people are shown of an outcome
    passes the ``masker``. ``editors`` are those that show a session now.
    """

    confinement: Confinement
    preserver: Callable[[str, str, str], Preserver]
    artifacts: Artifacts
    hooks: Hooks
    masker: Masker = field(default_factory=Masker)
    editors: Editors = field(default_factory=Editors)
