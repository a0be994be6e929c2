"""What a model is shown: the view of a log, and the request made of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from crabd.messages import (
    AssistantMessage,
    ImageBlock,
    Message,
    TextBlock,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
    text_of,
    tool_calls_of,
    user_text,
    utc_now,
)
from crabd.providers.base import ModelChoice, ModelRequest, ToolOffer
from crabd.runtime.agents import Agent, FrontMatter
from crabd.runtime.prompt import (
    NO_RESULT,
    TOKENS_PER_PICTURE,
    Context,
    History,
    compose_request,
    estimate_tokens,
)
from crabd.store.meta import SessionMeta
from crabd.store.record import Cleared, Compacted, MessageAdded, Record, RunClosed, RunOpened, Step
from tests.fakes import ScriptedProvider

NOW = utc_now()
META = SessionMeta(id="a_b_1", agent="a", sender="b", created_at=NOW, updated_at=NOW, steps=1)
CHOICE = ModelChoice("scripted/one", "one", ScriptedProvider(), "a test wrote it")
AGENT = Agent("a", "Be brief.", FrontMatter(), "a.md")
OFFERS = (ToolOffer("read", "", {}), ToolOffer("grep", "", {}))


def reply(text: str, *calls: str) -> AssistantMessage:
    return AssistantMessage((TextBlock(text), *(ToolCall(call, "x", "{}") for call in calls)))


def result(call: str) -> ToolMessage:
    return ToolMessage(call, "x", f"result of {call}", "ok")


def context_of(*records: Message | Record) -> Context:
    """Make the view of a log whose first step is 1."""
    wrapped = [
        MessageAdded("r1", record)
        if isinstance(record, UserMessage | AssistantMessage | ToolMessage)
        else record
        for record in records
    ]
    return Context(Step(n, NOW, record) for n, record in enumerate(wrapped, 1))


def texts(context: Context) -> list[str]:
    return [text_of(message) for message in context.messages()]


def compacted(summary: str, *, upto: int, goal: int | None) -> Compacted:
    return Compacted("a_b_1/1", summary, upto, goal, 10)


def test_the_model_sees_the_messages_of_a_log_and_nothing_else_of_it() -> None:
    context = context_of(
        RunOpened("r1"), user_text("one"), reply("two"), RunClosed("r1", "end_turn", 1.0, Usage())
    )

    assert texts(context) == ["one", "two"]
    assert [entry.step for entry in context.entries] == [2, 3]
    assert repr(context) == "<Context 2 messages>"


def test_a_summary_stands_behind_the_goal_and_before_what_came_since() -> None:
    context = context_of(
        user_text("the goal"),
        reply("a"),
        user_text("b"),
        reply("c"),
        compacted("they talked", upto=2, goal=1),
        user_text("d"),
    )

    head, *rest = texts(context)

    assert head == (
        "the goal\n\n<summary>\nThe conversation before this point, summarised:\n\nthey talked\n</summary>"
    )
    assert rest == ["b", "c", "d"]
    assert repr(context) == "<Context 3 messages, summarised>"


def test_a_summary_without_a_goal_stands_alone() -> None:
    context = context_of(reply("a"), compacted("they talked", upto=1, goal=None))

    (head,) = context.messages()

    assert head == user_text(
        "<summary>\nThe conversation before this point, summarised:\n\nthey talked\n</summary>"
    )


def test_a_second_summary_replaces_the_first_and_keeps_its_goal() -> None:
    context = context_of(
        user_text("the goal"),
        reply("a"),
        compacted("first", upto=2, goal=1),
        user_text("b"),
        reply("c"),
        compacted("second", upto=5, goal=1),
    )

    (head,) = texts(context)

    assert head.startswith("the goal\n\n<summary>")
    assert "second" in head
    assert "first" not in head


def test_a_goal_may_be_one_of_the_messages_that_came_since() -> None:
    context = context_of(reply("a"), user_text("later"), reply("b"), compacted("sum", upto=3, goal=2))

    assert texts(context)[0].startswith("later\n\n<summary>")


def test_after_a_clear_the_model_sees_nothing_of_what_came_before() -> None:
    context = context_of(
        user_text("goal"), reply("a"), compacted("sum", upto=2, goal=1), Cleared(), user_text("new")
    )

    assert texts(context) == ["new"]
    assert (context.goal, context.summary) == (None, None)


def test_the_goal_is_written_into_the_request_and_not_into_the_view() -> None:
    context = context_of(user_text("goal"), reply("a"), compacted("sum", upto=2, goal=1))

    assert context.messages() == context.messages()
    assert context.entries == []


def test_a_call_without_a_result_is_answered_where_it_was_asked() -> None:
    context = context_of(user_text("go"), reply("", "a", "b"), result("b"), user_text("next"))

    _, _, known, made, after = context.messages()

    assert known == result("b")
    assert made == ToolMessage("a", "x", NO_RESULT, "interrupted")
    assert text_of(after) == "next"


def test_a_result_that_nobody_asked_for_is_left_out() -> None:
    asked = reply("", "a")

    history = History(
        [result("a"), asked, result("a"), result("a"), result("z"), user_text("b"), result("a")]
    )

    assert history.messages() == [asked, result("a"), user_text("b")]


Ids = st.sampled_from(["a", "b", "c"])
Messages = st.lists(
    st.one_of(
        st.just(user_text("u")),
        st.lists(Ids, unique=True, max_size=3).map(lambda ids: reply("t", *ids)),
        Ids.map(result),
    ),
    max_size=12,
)


@given(Messages)
def test_in_any_history_each_call_is_answered_once_and_right_behind_it(messages: list[Message]) -> None:
    paired = History(messages).messages()

    open_calls: set[str] = set()
    for message in paired:
        if isinstance(message, ToolMessage):
            assert message.call in open_calls
            open_calls.remove(message.call)
        else:
            assert open_calls == set()
            open_calls = {call.id for call in tool_calls_of(message)}
    assert open_calls == set()
    assert History(paired).messages() == paired
    assert [m for m in paired if not isinstance(m, ToolMessage)] == [
        m for m in messages if not isinstance(m, ToolMessage)
    ]


@given(Messages, st.integers(0, 12))
def test_a_request_on_the_way_changes_nothing_of_the_next(messages: list[Message], asked_after: int) -> None:
    context = Context()

    for n, message in enumerate(messages, 1):
        context.add(Step(n, NOW, MessageAdded("r1", message)))
        if n >= asked_after:
            context.messages()

    assert list(context.messages()) == History(messages).messages()


def test_a_request_before_a_cut_leaves_nothing_behind_it() -> None:
    context = context_of(user_text("goal"), reply("a"), user_text("b"))
    before = texts(context)

    context.add(Step(4, NOW, compacted("sum", upto=2, goal=None)))
    after = texts(context)
    context.add(Step(5, NOW, Cleared()))

    assert before == ["goal", "a", "b"]
    assert after[1:] == ["b"]
    assert texts(context) == []


def test_a_request_is_made_of_the_agent_and_the_history() -> None:
    agent = structs.replace(AGENT, options=FrontMatter(thinking=True, max_tokens=100))
    messages = (user_text("hello"),)

    request = compose_request(agent, META, CHOICE, messages, tools=OFFERS, tool_choice="none")

    assert request == ModelRequest(
        model="one",
        system="Be brief.",
        messages=messages,
        tools=OFFERS,
        tool_choice="none",
        thinking=True,
        max_tokens=100,
    )


def test_the_settings_of_a_session_come_before_those_of_its_agent() -> None:
    agent = structs.replace(AGENT, options=FrontMatter(thinking=True))
    meta = structs.replace(META, system_prompt="", thinking=False, cwd="/src")

    request = compose_request(agent, meta, CHOICE, ())

    assert request.system == "\n\nThe working directory is /src"
    assert request.thinking is False


def test_a_model_is_told_of_a_mode_that_keeps_it_from_changing_anything() -> None:
    plan = compose_request(AGENT, META, CHOICE, (), mode="plan").system
    reading = compose_request(AGENT, META, CHOICE, (), mode="read-only").system

    assert plan.startswith("Be brief.\n\nYou are to make a plan, and to change nothing yet")
    assert reading.startswith("Be brief.\n\nYou may only read here")


def test_tokens_are_guessed_from_bytes_of_text_calls_and_results() -> None:
    plain = estimate_tokens([user_text("x" * 400)])
    wide = estimate_tokens([user_text("漢" * 400)])
    call = estimate_tokens([AssistantMessage((ToolCall("a", "x" * 200, "y" * 200),))])
    output = estimate_tokens([ToolMessage("a", "x", "o" * 400, "ok")])

    assert plain == call == output == 104
    assert wide == 304
    assert estimate_tokens([]) == 0


def test_a_picture_weighs_what_models_count_for_one_however_large_its_file_is() -> None:
    small, large = (UserMessage((ImageBlock("image/png", b"x" * size),)) for size in (10, 1_000_000))

    assert estimate_tokens([small]) == estimate_tokens([large])
    assert estimate_tokens([small, large]) == 2 * TOKENS_PER_PICTURE + 8
