"""Where a history is cut, and how its summary is asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd.messages import (
    AssistantMessage,
    Message,
    TextBlock,
    ToolCall,
    ToolMessage,
    UserMessage,
    text_of,
    tool_calls_of,
    user_text,
    utc_now,
)
from crabd.runtime.compaction import (
    KEEP_ROUNDS,
    MAX_RESULT_LENGTH,
    SUMMARY_PROMPT,
    Cut,
    plan_cut,
    summary_request,
    weigh_after,
)
from crabd.runtime.prompt import Context, estimate_tokens
from crabd.store.record import Compacted, MessageAdded, Step

NOW = utc_now()


def reply(text: str, *calls: str) -> AssistantMessage:
    return AssistantMessage((TextBlock(text), *(ToolCall(call, "grep", '{"q":1}') for call in calls)))


def result(call: str, output: str = "found") -> ToolMessage:
    return ToolMessage(call, "grep", output, "ok")


def context_of(*messages: Message) -> Context:
    return Context(Step(n, NOW, MessageAdded("r1", message)) for n, message in enumerate(messages, 1))


def rounds(count: int) -> list[Message]:
    """Make as many rounds, each a question and its answer."""
    return [message for i in range(count) for message in (user_text(f"q{i}"), reply(f"a{i}"))]


def planned(context: Context) -> Cut:
    cut = plan_cut(context)
    assert cut is not None
    return cut


def texts(cut: Cut) -> list[str]:
    return [text_of(entry.message) for entry in cut.kept]


@pytest.mark.parametrize("messages", [[], [user_text("hello")], [user_text("a"), user_text("b")]])
def test_without_a_complete_round_there_is_nothing_to_cut(messages: list[Message]) -> None:
    assert plan_cut(context_of(*messages)) is None


@pytest.mark.parametrize(
    ("count", "kept"), [(1, 0), (2, 1), (3, 1), (4, 2), (8, KEEP_ROUNDS), (9, KEEP_ROUNDS), (50, KEEP_ROUNDS)]
)
def test_the_newest_rounds_stay_and_no_more_than_half_of_them(count: int, kept: int) -> None:
    cut = planned(context_of(*rounds(count)))

    assert texts(cut) == [word for i in range(count - kept, count) for word in (f"q{i}", f"a{i}")]
    assert cut.upto == 2 * (count - kept)


def test_the_first_thing_a_person_said_is_the_goal() -> None:
    cut = planned(context_of(reply("welcome"), *rounds(2)))

    assert cut.goal is not None
    assert (cut.goal.step, text_of(cut.goal.message)) == (2, "q0")


def test_a_message_that_stays_is_not_made_the_goal() -> None:
    cut = planned(context_of(reply("a"), user_text("q"), reply("b")))

    assert cut.goal is None
    assert texts(cut) == ["q", "b"]


def test_the_goal_of_an_earlier_compaction_stays_the_goal() -> None:
    context = context_of(*rounds(2))
    context.add(Step(5, NOW, Compacted("a_b_1/1", "sum", 2, 1, 10)))

    cut = planned(context)

    assert cut.goal is not None
    assert (cut.goal.step, cut.upto) == (1, 4)


def test_a_call_stays_with_its_results() -> None:
    messages: list[Message] = [
        user_text("q"),
        reply("", "a", "b"),
        result("a"),
        result("b"),
        reply("done"),
        user_text("next"),
    ]

    cut = planned(context_of(*messages))

    assert cut.upto == 4
    assert texts(cut) == ["done", "next"]


Rounds = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=14)


@given(Rounds, st.integers(0, 2))
def test_no_cut_parts_a_call_from_its_result_or_loses_a_message(
    shape: list[tuple[int, int]], unanswered: int
) -> None:
    messages: list[Message] = []
    for number, (asked, called) in enumerate(shape):
        ids = [f"{number}.{i}" for i in range(called)]
        messages += [*[user_text("q")] * asked, reply("a", *ids), *map(result, ids)]
    messages += [user_text("later")] * unanswered
    context = context_of(*messages)

    cut = plan_cut(context)

    assert (cut is None) == (not shape)
    if cut is not None:
        assert [*cut.replaced, *cut.kept] == context.entries
        assert cut.upto == cut.replaced[-1].step
        asked_for = {call.id for entry in cut.kept for call in tool_calls_of(entry.message)}
        answered = {entry.message.call for entry in cut.kept if isinstance(entry.message, ToolMessage)}
        assert asked_for == answered
        assert sum(isinstance(entry.message, AssistantMessage) for entry in cut.kept) == min(
            KEEP_ROUNDS, len(shape) // 2
        )
        assert cut.goal is None or isinstance(cut.goal.message, UserMessage)


def test_a_summary_is_asked_for_with_the_transcript_that_it_replaces() -> None:
    context = context_of(user_text("find it"), reply("I look", "a"), result("a"), reply("it is there"))
    cut = planned(context)

    request = summary_request("one", context, cut, None)

    assert (request.model, request.system, request.tools) == ("one", SUMMARY_PROMPT, ())
    assert [text_of(message) for message in request.messages] == [
        "Summarise this conversation.\n\n"
        "<transcript>\n"
        "person: find it\n"
        'agent: I look\ncall grep {"q":1}\n'
        "result of grep (ok): found\n"
        "</transcript>"
    ]


def test_wishes_and_the_earlier_summary_go_before_the_transcript() -> None:
    context = context_of(*rounds(2))
    context.add(Step(5, NOW, Compacted("a_b_1/1", "they met", 2, 1, 10)))

    (asked,) = summary_request("one", context, planned(context), "mind the numbers").messages

    assert text_of(asked) == (
        "Summarise this conversation.\nPay attention to this: mind the numbers\n\n"
        "<earlier_summary>\nthey met\n</earlier_summary>\n"
        "<transcript>\nperson: q1\nagent: a1\n</transcript>"
    )


def test_a_long_result_is_cut_in_the_transcript() -> None:
    long = result("a", "x" * (MAX_RESULT_LENGTH + 1))
    context = context_of(reply("", "a"), long)

    (asked,) = summary_request("one", context, planned(context), None).messages

    assert f"result of grep (ok): {'x' * MAX_RESULT_LENGTH} … [cut]\n" in text_of(asked)
    assert "x" * (MAX_RESULT_LENGTH + 1) not in text_of(asked)


def test_what_is_left_weighs_its_goal_its_summary_and_what_was_kept() -> None:
    context = context_of(user_text("g" * 400), reply("a" * 4000), user_text("q" * 400), reply("b" * 400))

    weight = weigh_after(planned(context), "s" * 40)

    kept: list[Message] = [user_text("g" * 400), user_text("s" * 40), user_text("q" * 400), reply("b" * 400)]
    assert weight == estimate_tokens(kept)
