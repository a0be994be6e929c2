"""A reader of lua-language-server's annotations, which takes no line that it cannot read."""

from __future__ import annotations

import re

BUILT_IN = {"any", "boolean", "integer", "nil", "number", "string", "table"}
_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[A-Za-z_][\w.]*|\[\]|[()<>,:|])')
_CLASS = re.compile(r"---@class (?P<name>[\w.]+)(: (?P<parent>[\w.]+))?")
_FIELD = re.compile(r'---@field (?P<name>[a-z_]+\??|\["[a-z_./]+"\]) (?P<type>[^#]+?)(?: # \S.*)?')
_ALIAS = re.compile(r"---@alias (?P<name>[\w.]+)")
_MEMBER = re.compile(r"---\| (?P<type>[\w.]+)")
_TEXT = re.compile(r"---( .*)?|--( .*)?|---@meta \w+")


class Annotations:
    """Which names a file declares, which it uses, and the fields of each class."""

    def __init__(self, text: str) -> None:
        self.declared: set[str] = set()
        self.used: set[str] = set()
        self.fields: dict[str, dict[str, str]] = {}
        for line in filter(None, text.splitlines()):
            self._read(line)

    @property
    def unknown(self) -> set[str]:
        """The names that are used and not declared."""
        return self.used - self.declared - BUILT_IN

    def _read(self, line: str) -> None:
        if found := _CLASS.fullmatch(line):
            self._declare(found["name"])
            self.fields[found["name"]] = {}
            self.used |= {found["parent"]} - {None}
        elif found := _FIELD.fullmatch(line):
            name, fields = found["name"], list(self.fields.values())[-1]
            assert name not in fields, line
            fields[name] = found["type"]
            self.used |= names_in(found["type"])
        elif found := _ALIAS.fullmatch(line):
            self._declare(found["name"])
        elif found := _MEMBER.fullmatch(line):
            self.used |= names_in(found["type"])
        else:
            assert _TEXT.fullmatch(line), line

    def _declare(self, name: str) -> None:
        assert name not in self.declared, f"{name} is declared twice"
        self.declared.add(name)


def names_in(type_: str) -> set[str]:
    """Read a type, to its end; returns the names in it."""
    reader = _Reader(type_)
    names = reader.union()
    assert reader.tokens == [], f"{type_}: {reader.tokens} is too much"
    return names


class _Reader:
    """Reads one type: a method for each rule of the grammar, which returns the names that it has met."""

    def __init__(self, type_: str) -> None:
        self.tokens: list[str] = _TOKEN.findall(type_)
        assert "".join(self.tokens) == re.sub(r"\s", "", type_), f"{type_} has what no type has"

    def union(self) -> set[str]:
        names = self._one()
        while self._takes("|"):
            names |= self._one()
        return names

    def _one(self) -> set[str]:
        names = self._part()
        while self._takes("[]"):
            pass
        return names

    def _part(self) -> set[str]:
        token = self.tokens.pop(0)
        if token == "(":
            names = self.union()
            self._expect(")")
        elif token == "table" and self._takes("<"):
            names = self.union()
            self._expect(",")
            names |= self.union()
            self._expect(">")
        elif token == "fun":
            self._expect("(")
            self.tokens.pop(0)
            self._expect(":")
            names = self.union()
            self._expect(")")
            self._expect(":")
            names |= self.union()
        else:
            assert token[0] not in "()<>,:|[", f"{token} begins no type"
            names = {token} - {token if token[0] == '"' else ""}
        return names

    def _takes(self, token: str) -> bool:
        is_next = self.tokens[:1] == [token]
        del self.tokens[: int(is_next)]
        return is_next

    def _expect(self, token: str) -> None:
        assert self._takes(token), f"{token} is missing before {self.tokens}"
