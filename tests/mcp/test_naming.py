"""What the tools of servers are called: as every provider takes it, and no two alike by accident."""

from __future__ import annotations

import re

import pytest

from crabd.mcp.naming import MAX_NAME, name_server, name_tool


@pytest.mark.parametrize(
    ("server", "tool", "name"),
    [
        ("github", "create_issue", "mcp__github__create_issue"),
        ("My Files!", "read.file", "mcp__My_Files__read_file"),
        ("a__b", "c", "mcp__a_b__c"),
        ("日本", "検索", "mcp__server____"),
        ("", "", "mcp__server___"),
    ],
)
def test_a_name_says_whose_tool_it_is(server: str, tool: str, name: str) -> None:
    assert name_tool(server, tool) == name


@pytest.mark.parametrize("length", [1, 24, 25, 63, 64, 65, 1000])
def test_every_name_fits(length: int) -> None:
    name = name_tool("s" * length, "t" * length)

    assert len(name) <= MAX_NAME
    assert re.fullmatch(r"mcp__[a-zA-Z0-9_-]+", name)


def test_long_names_that_begin_alike_stay_apart() -> None:
    names = {name_tool("server", "t" * 100 + end) for end in "abc"}
    servers = {name_server("s" * 100 + end) for end in "abc"}

    assert (len(names), len(servers)) == (3, 3)


def test_no_server_has_the_beginning_of_anothers_tools() -> None:
    """Else a rule for all tools of one would let those of the other through."""
    assert not name_tool("github__evil", "x").startswith("mcp__github__")
    assert not name_tool("github", "x").startswith("mcp__github__evil__")
