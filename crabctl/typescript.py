"""The contract as TypeScript: one module of types, and nothing that runs. Pure."""

from __future__ import annotations

from textwrap import fill, indent

from crabctl.contract import Contract, Field, Method, Notification, Spelling, Type, spell

HEAD = """\
// {title}: made by `crabctl schema --types typescript`.
//
// A call, with any JSON-RPC client:
//   request<M extends keyof Methods>(method: M, params: Methods[M]["params"]): Promise<Methods[M]["result"]>
"""
SPELLING = Spelling(
    {
        "string": "string",
        "integer": "number",
        "number": "number",
        "boolean": "boolean",
        "null": "null",
        "any": "unknown",
    },
    either=" | ",
    name="{}",
    array="{}[]",
    mapping="Record<string, {}>",
)
WIDTH = 100


def write_typescript(contract: Contract) -> str:
    """Write all types, the events as a union told apart by ``type``, and maps by the names of the wire."""
    parts = [HEAD.format(title=contract.title)]
    parts += [_interface(each) for each in contract.types]
    parts += [_union(each) for each in contract.notifications]
    parts += [_map("Methods", "What each method takes and gives.", [_method(m) for m in contract.methods])]
    sent = [f'"{each.name}": {each.type_name};' for each in contract.notifications]
    parts += [_map("Notifications", "What the daemon sends unasked.", sent)]
    return "\n".join(parts)


def _interface(type_: Type) -> str:
    if not type_.fields:
        # An empty interface would be one that everything fits.
        return f"{_comment(type_.about)}export type {type_.name} = Record<string, never>;\n"
    return _map(type_.name, type_.about, [_field(field) for field in type_.fields])


def _map(name: str, about: str, members: list[str]) -> str:
    body = "".join(indent(member, "  ") + "\n" for member in members)
    return f"{_comment(about)}export interface {name} {{\n{body}}}\n"


def _field(field: Field) -> str:
    mark = "?" if field.is_optional else ""
    return f"{_comment(field.about)}{field.name}{mark}: {spell(field.schema, SPELLING)};"


def _method(method: Method) -> str:
    params, result = spell(method.params, SPELLING), spell(method.result, SPELLING)
    return f'{_comment(method.about)}"{method.name}": {{ params: {params}; result: {result} }};'


def _union(notification: Notification) -> str:
    whole = " | ".join(notification.kinds)
    if notification.envelope:
        kinds = "".join(f"\n  | {kind}" for kind in notification.kinds)
        whole = f"{notification.envelope} & ({kinds}\n)"
    return f"{_comment(notification.about)}export type {notification.type_name} = {whole};\n"


def _comment(text: str) -> str:
    """Write a comment; nothing in the text may end it."""
    paragraphs = text.replace("*/", "* /").split("\n\n")
    lines = "\n\n".join(fill(paragraph, WIDTH) for paragraph in paragraphs).split("\n")
    if len(lines) == 1:
        return f"/** {lines[0]} */\n" if text else ""
    return "/**\n" + "".join(f" * {line}".rstrip() + "\n" for line in lines) + " */\n"
