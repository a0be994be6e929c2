"""The tree of errors: its picture, its codes, its sentences."""

from __future__ import annotations

import re

import msgspec
import pytest

from crabd import errors
from crabd.errors import (
    AlreadyAnswered,
    BadRequest,
    BudgetSpent,
    CalledFromTool,
    ConfigError,
    Conflict,
    CrabdError,
    HookBlocked,
    NoRun,
    NotFound,
    NothingToCompact,
    ProviderError,
    QueueFull,
    Refused,
    RequestCancelled,
    RequestKeyReused,
    ServerLeftAlone,
    SessionBusy,
    SessionPaused,
    ShuttingDown,
    StoreError,
    TrustStale,
)
from crabd.rpc import envelope

# Each error, its code and data on the wire, and the sentence for people.
TABLE: list[tuple[CrabdError, int, dict[str, object], str]] = [
    (
        BadRequest("$.session", "name one"),
        -32602,
        {"kind": "invalid_params", "path": "$.session", "problem": "name one"},
        "$.session: name one",
    ),
    (
        NotFound("agent", "bob"),
        -32002,
        {"kind": "not_found", "what": "agent", "name": "bob"},
        "there is no agent 'bob'",
    ),
    (
        NotFound("agent", "bob", hint="there are crab"),
        -32002,
        {"kind": "not_found", "what": "agent", "name": "bob", "hint": "there are crab"},
        "there is no agent 'bob': there are crab",
    ),
    (
        SessionPaused("a_b_1"),
        -32003,
        {"kind": "paused", "session": "a_b_1"},
        "session a_b_1 is paused: resume it first (session/resume)",
    ),
    (
        BudgetSpent("budget", "a_b_1", "a", limit="tokens", allowed=1000, spent=1200),
        -32003,
        {
            "kind": "budget",
            "session": "a_b_1",
            "agent": "a",
            "limit": "tokens",
            "allowed": 1000,
            "spent": 1200,
        },
        "the budget of session a_b_1 is spent (tokens: 1200 of 1000): raise it (session/configure)",
    ),
    (
        BudgetSpent("daily_budget", "a_b_1", "a", limit="cost", allowed=2.0, spent=2.25),
        -32003,
        {
            "kind": "daily_budget",
            "session": "a_b_1",
            "agent": "a",
            "limit": "cost",
            "allowed": 2.0,
            "spent": 2.25,
        },
        "today's budget of agent a is spent (cost: 2.25 of 2): "
        "wait until 00:00 UTC, or raise daily_budget in the agent's file and reload",
    ),
    (
        HookBlocked("a_b_1", "before_prompt", "not on Sundays"),
        -32003,
        {"kind": "hook_blocked", "session": "a_b_1", "on": "before_prompt", "reason": "not on Sundays"},
        "a before_prompt hook stops it in session a_b_1: not on Sundays",
    ),
    (
        TrustStale(("/p/AGENTS.md",)),
        -32005,
        {"kind": "trust_stale", "files": ["/p/AGENTS.md"]},
        "/p/AGENTS.md: not as it was shown, so nothing is trusted: look again (trust/list)",
    ),
    (
        CalledFromTool(),
        -32003,
        {"kind": "called_from_a_tool"},
        "a tool may not drive the daemon that runs it, nor may a hook, or what either has started: "
        "ask the person to do it",
    ),
    (
        NoRun("a_b_1"),
        -32004,
        {"kind": "no_run", "session": "a_b_1"},
        "no run is going in session a_b_1: send a message to start one (session/send)",
    ),
    (
        NoRun("a_b_1", "r2"),
        -32004,
        {"kind": "no_run", "session": "a_b_1", "run": "r2"},
        "run r2 is not going in session a_b_1: send a message to start one (session/send)",
    ),
    (
        SessionBusy("a_b_1", "r2", "wait for it"),
        -32005,
        {"kind": "busy", "session": "a_b_1", "run": "r2", "advice": "wait for it"},
        "session a_b_1 is busy with run r2: wait for it",
    ),
    (
        SessionBusy("a_b_1", None, "wait for it"),
        -32005,
        {"kind": "busy", "session": "a_b_1", "advice": "wait for it"},
        "session a_b_1 is busy with a compaction: wait for it",
    ),
    (
        QueueFull("a_b_1", "messages", 16),
        -32005,
        {"kind": "queue_full", "session": "a_b_1", "what": "messages", "limit": 16},
        "session a_b_1 has 16 messages waiting already: wait for one to be taken",
    ),
    (
        NothingToCompact("a_b_1"),
        -32005,
        {"kind": "nothing_to_compact", "session": "a_b_1"},
        "session a_b_1 has nothing yet that a summary would make shorter: go on with it first",
    ),
    (
        AlreadyAnswered("a_b_1", "call_1", by="nvim", answer="deny"),
        -32005,
        {
            "kind": "already_answered",
            "session": "a_b_1",
            "call": "call_1",
            "by": "nvim",
            "answer": "deny",
        },
        "nvim was first and said deny to call call_1 of session a_b_1",
    ),
    (
        RequestKeyReused("k", "session/send"),
        -32005,
        {"kind": "request_key_reused", "request_key": "k", "method": "session/send"},
        "request key 'k' belongs to another request (session/send): repeat that one word for word, or take a "
        "new key",
    ),
    (
        ServerLeftAlone(
            "cannot connect", provider="openai", failures=5, retry_after=4.6, until="14:03:22 UTC"
        ),
        -32010,
        {
            "kind": "left_alone",
            "problem": "its server has failed 5 times in a row and is left alone until 14:03:22 UTC: wait, "
            "or run `crabctl reload` to try at once. The last failure: cannot connect",
            "provider": "openai",
            "retry_after": 4.6,
            "last": "cannot connect",
            "failures": 5,
            "until": "14:03:22 UTC",
        },
        "openai: its server has failed 5 times in a row and is left alone until 14:03:22 UTC: wait, "
        "or run `crabctl reload` to try at once. The last failure: cannot connect",
    ),
    (
        ProviderError("rate_limited", "slow down", provider="openai", status=429, retry_after=1.5),
        -32010,
        {
            "kind": "rate_limited",
            "problem": "slow down",
            "provider": "openai",
            "status": 429,
            "retry_after": 1.5,
        },
        "openai: slow down (try again in 2 s)",
    ),
    (
        StoreError("full", "the disk is full", session="a_b_1"),
        -32020,
        {"kind": "full", "problem": "the disk is full", "session": "a_b_1"},
        "the disk is full (session a_b_1)",
    ),
    (StoreError("io", "no"), -32020, {"kind": "io", "problem": "no"}, "no"),
    (
        ShuttingDown(),
        -32030,
        {"kind": "shutting_down"},
        "the daemon is stopping: ask again when it is back",
    ),
    (
        RequestCancelled("the compaction"),
        -32800,
        {"kind": "cancelled", "what": "the compaction"},
        "the compaction was cancelled: nothing was changed",
    ),
    (
        ConfigError("config.toml", "what is that?"),
        -32603,
        {"kind": "config", "file": "config.toml", "problem": "what is that?"},
        "config.toml: what is that?",
    ),
]


@pytest.mark.parametrize(("error", "code", "data", "sentence"), TABLE)
def test_an_error_tells_programs_its_facts_and_people_a_sentence(
    error: CrabdError, code: int, data: dict[str, object], sentence: str
) -> None:
    assert (error.code, error.data, str(error)) == (code, data, sentence)
    assert msgspec.json.decode(msgspec.json.encode(error.data)) == data


def test_every_error_is_tried_here() -> None:
    tried = {type(error) for error, *_ in TABLE}

    assert tried | {CrabdError, Conflict, Refused} == set(classes_of_the_module())


def test_the_picture_of_the_tree_is_the_tree() -> None:
    drawn = re.findall(r"^ *(?:│ +)?[├└]── (\w+) *(-\d+)?", errors.__doc__ or "", re.MULTILINE)

    assert [name for name, _ in drawn] == [cls.__name__ for cls in classes_of_the_module()[1:]]
    for name, code in drawn:
        cls = getattr(errors, name)
        assert not code or cls.code == int(code)
        assert code or name == "ConfigError" or cls.code == cls.__base__.code


def test_a_kind_names_one_class_only() -> None:
    kinds = [cls.kind for cls in classes_of_the_module() if "kind" in vars(cls)]

    assert len(kinds) == len(set(kinds))


def test_the_protocol_which_knows_nothing_of_us_has_the_same_codes() -> None:
    of_protocol = {
        name: value for name, value in vars(envelope).items() if isinstance(value, int) and value < 0
    }

    assert of_protocol
    assert of_protocol == {name: getattr(errors, name) for name in of_protocol}


def classes_of_the_module() -> list[type[CrabdError]]:
    """List all errors of the module as they stand there, the root first."""
    return [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, CrabdError)]
