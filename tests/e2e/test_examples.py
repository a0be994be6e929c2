"""The examples of the OpenRPC document, played from the first to the last against the real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from jsonschema import Draft7Validator

from crabd.api.scenery import EXPORTED
from crabd.api.scenery import HOME as ANNS
from tests.e2e.daemon import Client, Daemon, Home

# What is another one every time, on every machine, or with every version of a prompt or a tool.
VARIES = """
    active_seconds context_tokens duration_ms epoch first_seq input_tokens kind last_seq memory openrpc
    output_tokens path pid problems records sandbox score seq socket steps told uptime usage_after
    usage_before version
"""


def differences(example: object, found: object, path: str = "$", *, is_cut: bool) -> Iterator[str]:
    """Tell where an answer is not what an example says, but for what varies or is left out of the example."""
    match example, found:
        case dict(), dict():
            wanted, got = cast("dict[str, object]", example), cast("dict[str, object]", found)
            strange = wanted.keys() - got.keys() if is_cut else wanted.keys() ^ got.keys()
            yield from (f"{path}.{name} is not in both" for name in strange)
            for name in wanted.keys() & got.keys():
                yield from differences(wanted[name], got[name], f"{path}.{name}", is_cut=is_cut)
        case list(), list() if is_cut:
            for number, wish in enumerate(cast("list[object]", example)):
                if not any(is_like(wish, each) for each in cast("list[object]", found)):
                    yield f"{path}[{number}] is not there"
        case list(), list():
            wishes, has = cast("list[object]", example), cast("list[object]", found)
            yield from [f"{path} has {len(has)} members"] * (len(wishes) != len(has))
            for number, (wish, each) in enumerate(zip(wishes, has, strict=False)):
                yield from differences(wish, each, f"{path}[{number}]", is_cut=False)
        case _ if not is_same(example, found, path.rpartition(".")[2].partition("[")[0]):
            yield f"{path} is {found!r}"
        case _:
            pass


def is_like(wish: object, found: object) -> bool:
    return not any(differences(wish, found, is_cut=True))


def is_same(example: object, found: object, name: str) -> bool:
    if name in VARIES.split() or name in ("at", "since") or name.endswith("_at"):
        return type(example) is type(found)
    if isinstance(example, str) and example.endswith("…"):
        return isinstance(found, str) and found.startswith(example[:-1])
    return example == found


def test_an_answer_that_is_another_is_told_from_one_that_is_cut_or_varies() -> None:
    example = {"a": [{"b": "x…"}], "pid": 7}

    assert not [*differences(example, {"a": [{"b": "xyz"}], "pid": 8}, is_cut=False)]
    assert not [
        *differences(example, {"a": [{"b": "y"}, {"b": "xz", "c": 1}], "pid": 8, "d": 1}, is_cut=True)
    ]
    assert [*differences(example, {"a": [{"b": "y"}], "pid": 8}, is_cut=False)] == ["$.a[0].b is 'y'"]
    assert [*differences(example, {"a": [{"b": "xyz"}], "pid": 8, "d": 1}, is_cut=False)]
    assert [*differences(example, {"a": [{"b": "xyz"}, {"b": "xyz"}], "pid": 8}, is_cut=False)]
    assert [*differences(example, {"a": [{"b": "y"}], "pid": 8}, is_cut=True)] == ["$.a[0] is not there"]
    assert [*differences(example, {"a": [{"b": "xyz"}], "pid": "8"}, is_cut=True)] == ["$.pid is '8'"]


class Play:
    """The document's examples on one stage: a home that stands in for Ann's."""

    def __init__(self, document: dict[str, Any], home: Path) -> None:
        self.document = document
        self._home = str(home)

    def steps(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """List the examples, each after its method, in the order of their numbers."""
        pairs = [(method, each) for method in self.document["methods"] for each in method["examples"]]
        return sorted(pairs, key=lambda pair: int(pair[1]["name"].split()[0]))

    def localise(self, value: Any) -> Any:
        """Put the home of the test in the place of Ann's."""
        return msgspec.json.decode(msgspec.json.encode(value).replace(ANNS.encode(), self._home.encode()))

    def check(self, value: object, schema: dict[str, Any]) -> None:
        """Hold a value against a schema of the document."""
        whole = {"allOf": [schema], "components": self.document["components"]}
        Draft7Validator(whole).validate(value)


async def settle(client: Client, since: int, method: str, params: dict[str, Any]) -> None:
    """Wait until what an example has set going is over, waits for somebody, or is in the middle of it."""
    wanted = {"confirmation_requested", "question_asked", "run_ended"}
    if str(params.get("content")).startswith("slow"):
        wanted = {"text_delta"}
    if params.get("wait") is False or method in ("confirmation/reply", "question/reply"):
        await client.until(lambda: any(event["type"] in wanted for event in client.notifications[since:]))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Make a home like Ann's."""
    home = Home(tmp_path)
    home.configure('[mcp.servers.clock]\ncommand = "clock-mcp"\n')
    (tmp_path / "project").mkdir()
    return home


async def test_every_example_of_the_document_is_answered_as_it_says(daemon: Daemon) -> None:
    home = daemon.home.directory
    client = await daemon.connect()
    play = Play(await client.call("rpc.discover"), home)
    wrong: list[str] = []

    for method, example in play.steps():
        name, is_cut = example["name"], "description" in example
        params = play.localise({param["name"]: param["value"] for param in example["params"]})
        expected = play.localise(example["result"]["value"])
        play.check(params, method["x-params"])
        since = len(client.notifications)

        result = await client.call(method["name"], **params)

        play.check(result, method["result"]["schema"])
        wrong += [f"{name}: {each}" for each in differences(expected, result, is_cut=is_cut)]
        if method["name"] == "session/export":
            (home / Path(EXPORTED).name).write_text(result["jsonl"])
        if result.get("disposition") != "queued":
            await settle(client, since, method["name"], params)
    assert wrong == [], "\n".join(wrong)
    notification = play.document["x-notifications"][0]
    for event in {event["type"]: event for event in client.notifications}.values():
        play.check(event, notification["params"])
    assert {method["name"] for method, _ in play.steps()} == {m["name"] for m in play.document["methods"]}
