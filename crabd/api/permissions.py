"""Parameters and results of ``permission/*``: the rules of what agents may do, and the mode."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from crabd.api.sessions import Params, SessionId
from crabd.events import Decision, Mode

RuleText = Annotated[str, Meta(min_length=1, max_length=1000)]


class GetRules(Params, frozen=True):
    """All rules of the user; with a ``session`` those that hold in it, also its agent's and its own."""

    session: SessionId | None = None


class SetRule(Params, frozen=True):
    """``rule`` is ``tool`` or ``tool(pattern)``, as ``bash(git commit *)``, ``edit(docs/**)``,
    ``read(~/notes/**)`` or ``web_fetch(domain:example.org)``. A ``decision`` of null removes it.
    """

    rule: RuleText
    decision: Decision | None


class RuleInForce(Struct, frozen=True):
    """A rule, what it decides, and the place where it is written."""

    rule: str
    decision: Decision
    source: str


class RulesInForce(Struct, frozen=True):
    """Looked at in the order deny, allow, ask; what no rule speaks of, the ``mode`` decides.

    ``default`` takes the place of asking where the mode would ask.
    """

    mode: Mode
    default: Decision
    rules: tuple[RuleInForce, ...]
