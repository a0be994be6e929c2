"""Instructions files: which there may be for a directory, and how a model is shown them. Pure.

The person's own come first, then those from the root down to the working directory, so that the nearest has
the last word. What lies in directories is a stranger's until the person trusts it, as it is: by its digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import PurePosixPath
from xml.sax.saxutils import quoteattr

from msgspec import Struct

from crabd.runtime.prompt import shorten

NAMES = ("AGENTS.md", "CRAB.md")
# Of one file, and of all together, what a model is shown. In characters.
FILE_LENGTH, TOTAL_LENGTH = 32_768, 65_536


class Found(Struct, frozen=True):
    """An instructions file as it was read."""

    path: str
    data: bytes

    @property
    def digest(self) -> str:
        return sha256(self.data).hexdigest()


class Instructions(Struct, frozen=True):
    """What a model is told, and the files that it is not, for nobody has said that they may be trusted."""

    text: str = ""
    untrusted: tuple[str, ...] = ()


def places(directory: str | None) -> tuple[str, ...]:
    """List the files that there may be for a directory, the outermost first."""
    if directory is None:
        return ()
    path = PurePosixPath(directory)
    return tuple(str(place / name) for place in (*reversed(path.parents), path) for name in NAMES)


def compose(own: Iterable[Found], found: Iterable[Found], trusted: Mapping[str, str]) -> Instructions:
    """Put together what may be told; ``trusted`` are digests by path, which a person's ``own`` need not."""
    untrusted: list[str] = []

    def known() -> Iterator[Found]:
        yield from own
        for each in found:
            if trusted.get(each.path) == each.digest:
                yield each
            else:
                untrusted.append(each.path)

    # One that is a link to another would be told twice.
    told = {each.digest: each for each in known()}
    return Instructions(_frame(tuple(told.values())), tuple(untrusted))


def _frame(files: tuple[Found, ...]) -> str:
    length = min(FILE_LENGTH, TOTAL_LENGTH // max(1, len(files)))
    return "".join(
        f"\n\n<instructions file={quoteattr(each.path)}>\n{text}\n</instructions>"
        for each in files
        if (text := shorten(each.data.decode("utf-8", "replace").strip(), length))
    )
