"""Records to store: some fixed ones, and strategies for every kind there is."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import strategies as st
from msgspec import UNSET

from crabd.events import Budget, ErrorInfo, PlanItem, RuleLists
from crabd.messages import (
    AssistantMessage,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
    user_text,
)
from crabd.store.record import (
    Answered,
    Asked,
    Claimed,
    Cleared,
    Compacted,
    Configured,
    Created,
    FileChanged,
    FileKept,
    Forked,
    MessageAdded,
    MessageQueued,
    ModelCalled,
    Planned,
    Record,
    Rewound,
    RunClosed,
    RunOpened,
    Shortened,
    Step,
    Task,
)

AT = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
counts = st.integers(0, 2**53)
seconds = st.floats(0, 1e9)
maybe_words = st.none() | words

usages = st.builds(Usage, counts, counts, counts, counts, counts, st.none() | seconds)
limits = st.none() | st.integers(1, 2**53)
amounts = st.none() | st.floats(0, 1e9, exclude_min=True)
budgets = st.builds(Budget, tokens=limits, cost=amounts, rounds=limits, seconds=amounts)
rules = st.lists(words, max_size=3).map(tuple)
rule_lists = st.builds(RuleLists, allow=rules, deny=rules, ask=rules)
text_blocks = st.builds(TextBlock, words)
pictures = st.builds(
    ImageBlock, st.sampled_from(["image/png", "image/jpeg"]), st.binary(min_size=1, max_size=20)
)
user_contents = st.lists(text_blocks | pictures, max_size=3).map(tuple)
assistant_blocks = (
    text_blocks | st.builds(ThinkingBlock, words, words, words) | st.builds(ToolCall, words, words, words)
)
messages = (
    st.builds(UserMessage, user_contents, words)
    | st.builds(
        AssistantMessage, st.lists(assistant_blocks, max_size=3).map(tuple), words, st.booleans(), words
    )
    | st.builds(
        ToolMessage, words, words, words, st.sampled_from(["ok", "error", "cancelled", "interrupted"])
    )
)
records: st.SearchStrategy[Record] = st.one_of(
    st.builds(RunOpened, words, maybe_words, words),
    st.builds(Claimed, words, maybe_words),
    st.builds(MessageQueued, words, user_contents, words, maybe_words, counts),
    st.builds(MessageAdded, words, messages, maybe_words, counts),
    st.builds(
        ModelCalled,
        words,
        words,
        st.sampled_from(["reply", "summary", "title", "guest"]),
        usages,
        counts,
        st.none() | counts,
        st.none() | counts,
        st.none() | counts,
        st.booleans(),
    ),
    st.builds(Asked, words, words, words, words),
    st.builds(
        Answered,
        words,
        words,
        st.none() | st.sampled_from(["allow", "allow_session", "allow_always", "deny"]),
        words,
        words,
        st.lists(words, max_size=2).map(tuple),
    ),
    st.builds(
        Planned,
        words,
        st.lists(
            st.builds(PlanItem, words, st.sampled_from(["pending", "in_progress", "done"])), max_size=3
        ).map(tuple),
    ),
    st.builds(
        RunClosed,
        words,
        st.sampled_from(["end_turn", "cancelled", "budget", "error"]),
        seconds,
        usages,
        st.none() | st.builds(ErrorInfo, st.integers(-40000, 0), words, words),
    ),
    st.builds(
        Compacted,
        words,
        words,
        counts,
        st.none() | counts,
        counts,
        maybe_words,
        maybe_words,
        st.none() | counts,
        st.lists(st.builds(Task, counts, words), max_size=2).map(tuple),
    ),
    st.builds(Shortened, counts, counts, counts),
    st.builds(Rewound, counts, counts),
    st.builds(Forked, words, counts),
    st.builds(Cleared),
    st.builds(FileKept, words, words, words, maybe_words, st.none() | counts),
    st.builds(FileChanged, words, words, words, maybe_words),
    st.builds(
        Configured,
        title=st.just(UNSET) | words,
        model=st.just(UNSET) | maybe_words,
        thinking=st.just(UNSET) | st.none() | st.booleans(),
        system_prompt=st.just(UNSET) | maybe_words,
        cwd=st.just(UNSET) | maybe_words,
        auto_compact=st.just(UNSET) | st.none() | st.booleans(),
        paused=st.just(UNSET) | st.booleans(),
        budget=st.just(UNSET) | budgets,
        mode=st.sampled_from([UNSET, None, "read-only", "full"]),
        permissions=st.just(UNSET) | rule_lists,
    ),
)
appends = st.lists(st.lists(records, min_size=1, max_size=4), max_size=5)


def said(text: str) -> MessageAdded:
    return MessageAdded("r1", user_text(text))


def a_turn(text: str = "hello") -> list[Record]:
    """What one short run leaves in the log."""
    reply = AssistantMessage((TextBlock(f"{text} yourself"),), "offline/echo")
    return [
        RunOpened("r1"),
        said(text),
        MessageAdded("r1", reply),
        ModelCalled("r1", "offline/echo", "reply", Usage(3, 4), 7, 1000),
        RunClosed("r1", "end_turn", 0.5, Usage(3, 4)),
    ]


def numbered(*records: Record, session: str = "a_b_1") -> list[Step]:
    """Make a log of records behind their ``Created``."""
    created = Created(session=session, agent="a", sender="b")
    return [Step(n, AT, record) for n, record in enumerate((created, *records), 1)]
