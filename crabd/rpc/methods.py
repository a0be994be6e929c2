"""What a method is: a name, the types of its parameters and its result, and how to read the first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from crabd.rpc.envelope import NO_PARAMS

P = TypeVar("P", bound=Struct)
R = TypeVar("R")


class InvalidParamsError(Exception):
    """Parameters that do not fit their type. ``path`` is ``$`` for all of them, ``$.name`` for one."""

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"invalid params at {self.path}: {self.problem}"


class Method(Struct, Generic[P, R], frozen=True):
    """A name with its types. ``summary`` is one sentence for people."""

    name: str
    params: type[P]
    result: Any
    summary: str

    def decode_params(self, raw: Raw) -> P:
        """Read parameters as they came off the wire.

        Raises:
          InvalidParamsError: a wrong type, a missing or an unknown field, with its path.
        """
        return _decode_none(self.params) if raw == NO_PARAMS else _decode(self.params, raw)


class MethodTable:
    """All methods of a server, by name, in the order they are documented."""

    def __init__(self, methods: Iterable[Method[Any, Any]]) -> None:
        self._methods = {method.name: method for method in methods}

    def __iter__(self) -> Iterator[Method[Any, Any]]:
        return iter(self._methods.values())

    def get(self, name: str) -> Method[Any, Any] | None:
        """Look a method up; null if there is none."""
        return self._methods.get(name)


def _decode(params: type[P], raw: Raw) -> P:
    try:
        decoded: P = _decoder_of(params).decode(raw)
    except msgspec.ValidationError as exc:
        raise InvalidParamsError(*locate(str(exc))) from exc
    return decoded


@cache
def _decode_none(params: type[P]) -> P:
    """Make the parameters that are all left out: the same every time, since nobody can change them."""
    return _decode(params, NO_PARAMS)


@cache
def _decoder_of(params: type[Struct]) -> msgspec.json.Decoder[Any]:
    """Make a type's decoder once: that costs several times what decoding does."""
    return msgspec.json.Decoder(params)


_AT_PATH = re.compile(r"^(?P<problem>.*?)(?: - at `(?P<path>\$[^`]*)`)?$", re.DOTALL)
_NAMED_FIELD = re.compile(r"(?:missing required field|contains unknown field) `(?P<field>[^`]*)`")


def locate(text: str) -> tuple[str, str]:
    """Split msgspec's sentence into path and problem; a missing or unknown field becomes part of the path."""
    found = _AT_PATH.match(text)
    assert found is not None, "the pattern matches any text"
    path, problem = found["path"] or "$", found["problem"]
    named = _NAMED_FIELD.search(problem)
    return (f"{path}.{named['field']}" if named else path), problem
