"""The interface of tools: what a model may ask for, what a call of it would touch, and how it is done.

A call is made in two moves, so that what is judged is what is done: ``prepare`` reads the arguments and finds
out what the call would touch, and only the prepared call, once whoever decides has allowed it, is run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct

from crabd.events import PlanItem, Question


class ToolSpec(Struct, frozen=True):
    """What a model is told about a tool. ``parameters`` is a JSON Schema of an object.

    One that ``is_read_only`` changes nothing, whatever it is called with. One that ``is_idempotent`` may be
    called twice with the effect of once.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    is_read_only: bool = False
    is_idempotent: bool = False


class Intent(Struct, frozen=True, kw_only=True):
    """What one call would touch, for whoever decides about it.

    ``title`` says it in a line of a person's words. Paths are absolute and real, without a link in them;
    what is run later opens these very paths and follows no link that was put there since. ``command`` is a
    shell's, ``url`` what would be fetched. Without any of them the call touches only the session.
    """

    title: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    command: str | None = None
    url: str | None = None


class Confinement(Protocol):
    """What a process that a tool starts is kept from."""

    def wrap(self, command: Sequence[str], cwd: str) -> tuple[str, ...]:
        """Make the command line that runs ``command`` in ``cwd`` confined. Blocks on the disk.

        Raises:
          OSError: nothing may run, and why.
        """
        ...

    def environment(self) -> dict[str, str]:
        """Make the environment of such a process: what is on a list, never a key."""
        ...

    def describe(self) -> str:
        """Say in a few words what is in force, for a person who decides."""
        ...


class FileState(Struct, frozen=True):
    """A file's content by its ``digest``, null where there is no file, and its mode where it is known."""

    digest: str | None
    mode: int | None = None


class Preserver(Protocol):
    """Keeps what a file was before a call changes it."""

    async def keep(self, path: str, content: bytes | None = None) -> None:
        """Keep the file of that real path as it is now, or that there is none.

        With ``content`` that is what the person has of it, though it may not be on the disk yet.

        Raises:
          OSError: it cannot be kept, so it should not be changed.
        """
        ...


class Editor(Protocol):
    """A person's editor, which may have more of a file than the disk. It answers in bounded time."""

    async def read(self, path: str) -> str | None:
        """Give the text of the file of a real path as the editor has it; null when it does not tell."""
        ...

    async def write(self, path: str, text: str) -> None:
        """Have the editor make or replace a file.

        Raises:
          EditorFailed: it may or may not be written.
        """
        ...


class EditorFailed(Exception):
    """An editor did not do what it was asked to; the text says why, as the end of a sentence."""


def no_editor() -> None:
    """Stand for where there is no editor."""


class Planner(Protocol):
    """The session's plan, which people see."""

    @property
    def items(self) -> tuple[PlanItem, ...]: ...

    async def change(self, items: tuple[PlanItem, ...]) -> None:
        """Put another plan in its place.

        Raises:
          StoreError: it cannot be kept.
        """
        ...


class ToolContext(Struct, frozen=True, kw_only=True):
    """What a call may know of its surroundings.

    ``cwd`` is the session's directory, a real path; without one a tool that needs a place says so. ``report``
    takes live output, ``ask`` gives a person's answer to each question, however long that takes, and null if
    there will be none. ``editor`` gives the person's editor, if there is one just then.
    """

    session: str
    run: str
    call: str
    cwd: str | None
    report: Callable[[str], None]
    ask: Callable[[Sequence[Question]], Awaitable[tuple[str, ...] | None]]
    preserver: Preserver
    planner: Planner
    confinement: Confinement
    editor: Callable[[], Editor | None] = no_editor


class ToolOutcome(Struct, frozen=True):
    """What the model reads. An error is an outcome too, so that the model can mend its call."""

    output: str
    is_error: bool = False


class BadArguments(ValueError):
    """The arguments make no call; the text tells the model what is wrong with them and what to write."""


class PreparedCall(Protocol):
    """A call whose arguments are understood. It is run at most once."""

    @property
    def intent(self) -> Intent: ...

    async def preview(self) -> str:
        """Show a person what would change, as a unified diff; empty where the intent says it all."""
        ...

    async def run(self) -> ToolOutcome:
        """Do it. Cancellation undoes nothing but leaves nothing running.

        An exception is a bug of the tool: it is logged, and the model reads that the tool failed.
        """
        ...


class Tool(Protocol):
    """Something a model may ask for."""

    @property
    def spec(self) -> ToolSpec: ...

    async def prepare(self, arguments: dict[str, Any], context: ToolContext) -> PreparedCall:
        """Understand a call; changes nothing.

        Raises:
          BadArguments.
        """
        ...


class Toolbox(Protocol):
    """The tools of one live session, and what they remember for it, such as files read and jobs running."""

    @property
    def tools(self) -> Sequence[Tool]: ...

    @property
    def is_busy(self) -> bool:
        """Something still runs that would be stopped by closing."""
        ...

    async def aclose(self) -> None:
        """Stop what the tools have left running. Bounded in time."""
        ...


class Toolmaker(Protocol):
    """Makes the toolbox of a session when it is live and has its first run."""

    def open(self, session: str) -> Toolbox: ...
