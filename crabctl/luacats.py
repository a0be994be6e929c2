"""The contract as annotations for lua-language-server: one file of comments, and nothing that runs. Pure."""

from __future__ import annotations

from crabctl.contract import Contract, Field, Method, Notification, Spelling, Type, spell

HEAD = """\
---@meta crabd
-- {title}: made by `crabctl schema --types lua`, for a directory of the language server's workspace.library.
-- What is null in JSON is nil here: vim.json.decode reads it so with luanil.
"""
SPELLING = Spelling(
    {
        "string": "string",
        "integer": "integer",
        "number": "number",
        "boolean": "boolean",
        "null": "nil",
        "any": "any",
    },
    either="|",
    name="crabd.{}",
    array="{}[]",
    mapping="table<string, {}>",
)


def write_lua(contract: Contract) -> str:
    """Write a class for each type, an alias for all events, and a class of all methods."""
    envelopes = {kind: each.envelope for each in contract.notifications for kind in each.kinds}
    parts = [HEAD.format(title=contract.title)]
    parts += [_class(each, envelopes.get(each.name)) for each in contract.types]
    parts += [_alias(each) for each in contract.notifications]
    parts += [_methods(contract.methods)]
    return "\n".join(parts)


def _class(type_: Type, parent: str | None) -> str:
    below = f": {_name(parent)}" if parent else ""
    lines = [f"---@class {_name(type_.name)}{below}", *map(_field, type_.fields)]
    return _comment(type_.about) + "\n".join(lines) + "\n"


def _field(field: Field) -> str:
    mark = "?" if field.is_optional else ""
    return f"---@field {field.name}{mark} {spell(field.schema, SPELLING)} {_line(field.about)}".rstrip()


def _alias(notification: Notification) -> str:
    kinds = "".join(f"\n---| {_name(kind)}" for kind in notification.kinds)
    return f"{_comment(notification.about)}---@alias {_name(notification.type_name)}{kinds}\n"


def _methods(methods: list[Method]) -> str:
    lines = [
        f'---@field ["{method.name}"] fun(params: {spell(method.params, SPELLING)}): '
        f"{spell(method.result, SPELLING)} {_line(method.about)}"
        for method in methods
    ]
    return "\n".join(["--- What each method takes and gives.", "---@class crabd.Methods", *lines]) + "\n"


def _name(name: str) -> str:
    return SPELLING.name.format(name)


def _comment(text: str) -> str:
    return "".join(f"--- {line}".rstrip() + "\n" for line in text.split("\n")) if text else ""


def _line(text: str) -> str:
    """Write a description behind a field: in one line, and begun so that it is no part of the type."""
    return f"# {' '.join(text.split())}" if text else ""
