"""Where a history is cut, and how its summary is asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crabd.events import PlanItem, PlanStatus
from crabd.messages import (
    AssistantMessage,
    ImageBlock,
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
    Gauge,
    extract,
    make_boundary,
    plan_cut,
    plan_shortening,
    summary_request,
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


def test_words_stand_for_a_picture_that_is_cut_and_one_that_is_kept_stays() -> None:
    shown = UserMessage((TextBlock("What is this?"), ImageBlock("image/png", b"x" * 2000)))
    words = "What is this?\n[picture: image/png, 2 kB]"
    context = context_of(shown, reply("a crab"), shown, reply("the same"))
    cut = planned(context)

    (asked,) = summary_request("one", context, cut, None).messages
    boundary = make_boundary(context, cut, "a_b_1/1", "they looked", before=5000)
    assert boundary is not None
    context.add(Step(5, NOW, boundary))

    assert f"person: {words}\nagent: a crab\n" in text_of(asked)
    head, *kept = context.messages()
    assert text_of(head).startswith(f"{words}\n\n<summary>")
    assert kept == [shown, reply("the same")]


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


def test_the_figure_falls_as_the_estimates_do_and_what_no_cut_changes_stays_in_it() -> None:
    context = context_of(user_text("g" * 400), reply("a" * 4000), user_text("q" * 400), reply("b" * 400))
    cut = planned(context)

    plain = make_boundary(context, cut, "a_b_1/1", "s" * 40, before=2000)
    heavy = make_boundary(context, cut, "a_b_1/1", "s" * 40, before=2000, overhead=4000)

    assert plain is not None
    assert heavy is not None
    context.add(Step(5, NOW, plain))
    assert context.weight == plain.context_tokens < 2000 * 400 // 1300 + 100
    assert plain.context_tokens < heavy.context_tokens < 2000


@pytest.mark.parametrize("summary", ["s" * 400, "s" * 40])
def test_a_summary_that_is_no_shorter_replaces_nothing(summary: str) -> None:
    context = context_of(user_text("goal"), reply("short"), user_text("q"), reply("b"))

    assert make_boundary(context, planned(context), "a_b_1/1", summary, before=50) is None


@pytest.mark.parametrize(
    ("last", "shown"),
    [("in_progress", "<your_plan_by_then>\n[x] dig\n[>] plant\n</your_plan_by_then>"), ("done", "")],
)
def test_a_plan_goes_with_a_summary_until_all_of_it_is_done(last: PlanStatus, shown: str) -> None:
    context = context_of(*rounds(1), reply("a" * 4000), user_text("q"), reply("b"))
    plan = (PlanItem("dig", "done"), PlanItem("plant", last))

    boundary = make_boundary(context, planned(context), "a_b_1/1", "they talked", before=1000, plan=plan)
    assert boundary is not None
    context.add(Step(6, NOW, boundary))

    (head, *_) = context.messages()
    assert text_of(head).partition("</summary>")[2].strip() == shown


def test_a_head_never_fills_the_window_it_is_for() -> None:
    huge = "x" * 100_000
    messages = [user_text(huge), *rounds(9), user_text(huge), reply("", "a"), result("a"), reply("", "b")]
    context = context_of(*messages, result("b"))

    cut = plan_cut(context, limit=1000, since=20)
    assert cut is not None
    boundary = make_boundary(context, cut, "a_b_1/1", huge, before=60_000)
    assert boundary is not None
    context.add(Step(25, NOW, boundary))

    assert [task.step for task in boundary.tasks] == [20]
    assert estimate_tokens(context.messages()) < 500
    assert context.weight < 1000


def test_what_the_open_run_was_asked_for_stays_until_it_is_done() -> None:
    context = context_of(*rounds(2), user_text("paint it blue"), reply("", "a"), result("a"))
    for n in range(8, 20, 2):
        context.add(Step(n, NOW, MessageAdded("r1", reply("x" * 400, f"c{n}"))))
        context.add(Step(n + 1, NOW, MessageAdded("r1", result(f"c{n}"))))

    cut = plan_cut(context, since=5)
    assert cut is not None
    boundary = make_boundary(context, cut, "a_b_1/1", "they talked", before=900)
    assert boundary is not None
    context.add(Step(20, NOW, boundary))

    (head, *_) = context.messages()
    assert "paint it blue" in text_of(head)
    assert text_of(head).startswith("q0")
    again = plan_cut(context, since=5)
    assert again is not None
    assert [task.text for task in again.tasks] == ["paint it blue"]
    later = plan_cut(context, since=30)
    assert later is not None
    assert later.tasks == ()
    (asked,) = summary_request("one", context, later, None).messages
    assert "Then the person asked: paint it blue" in text_of(asked)


def test_results_that_the_model_has_not_seen_are_not_summarised() -> None:
    context = context_of(user_text("q"), reply("", "a"), result("a", "x" * 9000))

    assert plan_cut(context, limit=100, since=1) is None


def test_old_long_results_are_shown_as_head_and_tail_and_the_newest_only_when_they_must() -> None:
    long = "head" + "x" * 10_000 + "tail"
    asked = [
        message for i in range(6) for message in (user_text("q"), reply("", f"c{i}"), result(f"c{i}", long))
    ]
    context = context_of(*asked)

    gentle = plan_shortening(context, limit=20_000, before=15_000)
    forced = plan_shortening(context, limit=2000, before=15_000, is_forced=True)

    assert gentle is not None
    assert forced is not None
    assert (gentle.upto, forced.upto) == (6, 18)
    assert forced.context_tokens < gentle.context_tokens < 15_000
    context.add(Step(19, NOW, gentle))
    assert plan_shortening(context, limit=20_000, before=15_000) is None
    outputs = [text_of(m) for m in context.messages() if isinstance(m, ToolMessage)]
    assert [output == long for output in outputs] == [False] * 2 + [True] * 4
    assert outputs[0].startswith("headx")
    assert outputs[0].endswith("xtail")
    assert "8008 characters left out" in outputs[0]


def test_a_transcript_has_a_size_and_keeps_its_ends() -> None:
    context = context_of(*rounds(2000))

    (asked,) = summary_request("one", context, planned(context), None, 4000).messages

    text = text_of(asked)
    assert len(text) < 4200
    assert "person: q0\n" in text
    assert "person: q1995\n" in text
    assert "messages left out" in text


def test_without_a_model_an_extract_tells_how_messages_begin() -> None:
    context = context_of(user_text("find it"), reply("I look", "a"), result("a", "x" * 900), reply("y" * 400))
    cut = planned(context)

    told = extract(context, cut)

    assert "person: find it\n" in told
    assert "y" * 400 not in told
    boundary = make_boundary(context, cut, "a_b_1/1", "z" * 50, before=500)
    assert boundary is not None
    context.add(Step(5, NOW, boundary))
    context.add(Step(6, NOW, MessageAdded("r1", reply("later"))))
    assert "z" * 50 in extract(context, planned(context))


def test_a_gauge_asks_for_room_above_a_part_of_the_window_and_knows_nothing_without_one() -> None:
    gauge = Gauge()

    assert gauge.read(10**9, None, 0.8) == "none"
    assert [gauge.read(weight, 1000, 0.8) for weight in (799, 800, 999, 1000)] == [
        "none",
        "wanted",
        "wanted",
        "forced",
    ]


def test_what_a_server_has_refused_is_the_window_from_then_on() -> None:
    gauge = Gauge()

    gauge.too_long(1000)

    assert gauge.limit(None) == gauge.limit(8000) == 900
    assert gauge.limit(100) == 100
    assert gauge.read(1000, 8000, 0.8) == "forced"


def test_after_two_compactions_without_effect_there_is_no_third_until_the_context_has_grown() -> None:
    gauge = Gauge()

    gauge.compacted()
    first = gauge.read(850, 1000, 0.8)
    gauge.compacted()
    second = gauge.read(850, 1000, 0.8)

    assert (first, second) == ("wanted", "none")
    assert gauge.has_given_up
    assert gauge.read(900, 1000, 0.8) == "none"
    assert gauge.read(1100, 1000, 0.8) == "forced"
    gauge.reset()
    assert gauge.read(850, 1000, 0.8) == "wanted"


def test_a_compaction_that_has_helped_makes_up_for_one_that_has_not() -> None:
    gauge = Gauge()

    gauge.failed(850)
    gauge.compacted()
    gauge.read(300, 1000, 0.8)
    gauge.failed(850)

    assert not gauge.has_given_up
