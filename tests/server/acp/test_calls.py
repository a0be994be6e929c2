"""How calls look, whatever a model makes of their arguments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd.server.acp import schema as acp
from crabd.server.acp.calls import describe_call, describe_result, fence


def describe(name: str, arguments: str, cwd: str | None = "/p") -> acp.ToolCall:
    return describe_call("id", name, arguments, cwd)


@pytest.mark.parametrize(
    ("name", "arguments", "title", "kind", "places"),
    [
        ("bash", '{"command": "make\\nmake test"}', "bash: make…", "execute", ()),
        ("bash", '{"command": "ls", "description": "look"}', "bash: look", "execute", ()),
        ("read", '{"path": "a/../b.py", "offset": 7}', "read: a/../b.py", "read", (("/p/b.py", 7),)),
        ("grep", '{"path": "/q", "pattern": "x"}', "grep: /q", "search", (("/q", None),)),
        ("web_fetch", '{"url": "http://x/"}', "web_fetch: http://x/", "fetch", ()),
        ("mcp__a__b", '{"path": 7}', "mcp__a__b", "other", ()),
        ("read", "not JSON", "read", "read", ()),
        ("read", "[]", "read", "read", ()),
    ],
)
def test_a_call_has_a_title_a_kind_and_its_places(
    name: str, arguments: str, title: str, kind: str, places: tuple[tuple[str, int | None], ...]
) -> None:
    call = describe(name, arguments)

    assert (call.title, call.kind) == (title, kind)
    assert tuple((place.path, place.line) for place in call.locations) == places


def test_without_a_directory_no_path_is_made_up() -> None:
    call = describe("edit", '{"path": "x", "old": "a", "new": "b"}', None)

    assert (call.locations, call.content) == ((), ())


def test_a_change_that_was_made_is_shown_by_itself_and_one_that_failed_with_the_reason() -> None:
    call = describe("write", '{"path": "x", "content": "new"}')

    done = describe_result(call, "written", is_ok=True)
    failed = describe_result(call, "no room", is_ok=False)

    diff = acp.Diff(path="/p/x", new_text="new")
    assert (done.status, done.content) == ("completed", (diff,))
    assert failed.status == "failed"
    assert failed.content == (diff, acp.Content(content=acp.Text(text="```\nno room\n```")))


def test_a_fence_is_longer_than_any_in_the_text() -> None:
    assert fence("a\n````\nb\n````") == "`````\na\n````\nb\n````\n`````"


@given(st.sampled_from(["bash", "edit", "write", "apply_patch", "read", "x"]), st.text())
def test_no_arguments_are_too_odd(name: str, arguments: str) -> None:
    call = describe(name, arguments)

    assert call.title.startswith(name)
