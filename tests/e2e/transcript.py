"""A session as a client has it that was told the picture, the history and events, and nothing else. Pure."""

from __future__ import annotations

from typing import Any, TypeAlias

from tests.e2e.witness import pick

Json: TypeAlias = dict[str, Any]


class Transcript:
    """The messages of a session, in order, as the store has them but for who said them: the model."""

    def __init__(self, snapshot: Json, history: list[Json]) -> None:
        info, run = snapshot["info"], snapshot["run"]
        self.seq: int = info["seq"]
        self.messages = [plain(entry["message"]) for entry in history if entry["step"] <= info["steps"]]
        # The reply that goes on.
        self._open: Json | None = None
        if run is not None:
            self._add_picture(run)

    def take(self, event: Json) -> bool:
        """Take the next event, or one that is known; false if something is missing before it."""
        if event["seq"] <= self.seq:
            return True
        if event["type"] == "lagged" or event.get("merged_from", event["seq"]) != self.seq + 1:
            return False
        self.seq = event["seq"]
        self._write(event)
        return True

    def _add_picture(self, run: Json) -> None:
        if not run["reply_kept"] and run["reply"]["content"]:
            self._open = {"role": "assistant", "content": run["reply"]["content"]}
            self.messages.append(self._open)
        self.messages += map(plain, run["results"])

    def _write(self, event: Json) -> None:
        match event["type"]:
            case "run_started":
                self.messages.append({"role": "user", "content": event["content"]})
                self._open = None
            case "text_start" | "thinking_start" as kind:
                self._reply()["content"].append({"type": kind.removesuffix("_start"), "text": ""})
            case "text_delta" | "thinking_delta":
                self._reply()["content"][-1]["text"] += event["text"]
            case "usage":
                # It is told when the reply is in the store.
                self._open = None
            case "tool_call":
                call = {"type": "tool_call", "id": event["call"]} | pick(event, "name", "arguments")
                if self.messages[-1]["role"] != "assistant":
                    self.messages.append({"role": "assistant", "content": []})
                self.messages[-1]["content"].append(call)
            case "tool_result":
                self.messages.append({"role": "tool"} | pick(event, "call", "name", "output", "status"))
            case _:
                pass

    def _reply(self) -> Json:
        if self._open is None:
            self._open = {"role": "assistant", "content": []}
            self.messages.append(self._open)
        return self._open


def plain(message: Json) -> Json:
    """Leave out of a message what events do not tell: which model it is from."""
    return {name: value for name, value in message.items() if name not in ("model", "partial")}
