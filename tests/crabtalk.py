"""Files as crabtalk wrote them, byte for byte, in every form that any of its versions had."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from struct import pack
from typing import Any

Json = dict[str, Any]

V21_META: Json = {
    "agent": "crab",
    "created_by": "tg:12345",
    "created_at": "2026-04-23T10:05:00.123456789+00:00",
    "title": "Deploy notes",
    "uptime_secs": 42,
    "topic": "deploy",
}
V22_META: Json = {
    "agent": "crab",
    "created_by": "user",
    "created_at": "2026-05-19T08:00:00.5+00:00",
    "title": "",
    "updated_at": "2026-05-19T09:00:00+00:00",
    "message_count": 4,
    "summary": None,
}


def compact(document: object) -> bytes:
    """Spell a document as crabtalk does: on one line, without spaces, with letters as they are."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def user(text: str) -> Json:
    return {"message": {"role": "user", "content": text}}


def assistant(text: str | None, *calls: tuple[str, str, str], agent: str = "", thinking: str = "") -> Json:
    message: Json = {"role": "assistant", "content": text}
    if thinking:
        message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = [
            {
                "index": index,
                "id": id_,
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for index, (id_, name, arguments) in enumerate(calls)
        ]
    return ({"agent": agent} if agent else {}) | {"message": message}


def tool(call: str, output: str, name: str = "read") -> Json:
    return {"message": {"role": "tool", "content": output, "tool_call_id": call, "name": name}}


def blocks(role: str, *content: Json, agent: str = "") -> Json:
    """Make an entry of the newer form, whose content is blocks."""
    return ({"agent": agent} if agent else {}) | {"message": {"role": role, "content": list(content)}}


def done(ts: str, reason: str = "text_response", iterations: int = 1) -> Json:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_cache_hit_tokens": 60,
        "prompt_cache_miss_tokens": 40,
    }
    return {
        "event": "done",
        "model": "m",
        "iterations": iterations,
        "stop_reason": reason,
        "usage": usage,
        "ts": ts,
    }


def boundary(name: str, at: str = "2026-04-23T10:03:00+00:00") -> Json:
    return {"archive_name": name, "archived_at": at}


def write_steps(place: Path, meta: Json | None, steps: Sequence[Json], *, first: int = 1) -> Path:
    """Make a session that is a directory of steps."""
    place.mkdir(parents=True)
    if meta is not None:
        (place / "meta").write_bytes(compact(meta))
    for number, step in enumerate(steps, first):
        (place / f"step-{number:06}").write_bytes(compact(step))
    return place


def write_lines(place: Path, meta: Json, lines: Sequence[Json]) -> Path:
    """Make a session that is a file of lines."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"".join(compact(line) + b"\n" for line in (meta, *lines)))
    return place


def set_time(place: Path, seconds: int) -> None:
    """Have files written at that time, in seconds since 1970."""
    for path in (place, *place.rglob("*")):
        os.utime(path, (seconds, seconds))


def memory(*entries: tuple[int, str, str]) -> bytes:
    """Make a memory file of entries: kind (0 note, 1 archive, 2 topic), name and content."""

    def text(value: str) -> bytes:
        return pack("<I", len(value.encode())) + value.encode()

    body = b"".join(
        pack("<QQI", number, 1_776_900_000, kind) + text(name) + text(content) + pack("<I", 1) + text("alias")
        for number, (kind, name, content) in enumerate(entries, 1)
    )
    return b"CRMEM\0" + pack("<IHI", 1, 0, 0) + pack("<QI", len(entries) + 1, len(entries)) + body


def page(content: str) -> str:
    """Make an entry of a dump, with its particulars in front."""
    at = "2026-04-14T10:23:45Z"
    aliases = "  <dt>Aliases</dt>\n  <dd>\n    <ul>\n      <li>ship</li>\n    </ul>\n  </dd>\n"
    created = f'  <dt>Created</dt>\n  <dd><time datetime="{at}">{at}</time></dd>\n'
    return f'<div id="meta">\n<dl>\n{created}{aliases}</dl>\n</div>\n\n{content}\n'


def write_root(home: Path) -> Path:
    """Make what a user of several versions has: sessions of every form, and the memory beside them."""
    sessions = home / "sessions"
    write_steps(
        sessions / "crab_user_1",
        V22_META,
        [
            blocks("user", {"type": "text", "text": "What is in a?"}),
            blocks(
                "assistant",
                {"type": "thinking", "thinking": "Look."},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "c1", "name": "read", "input": {"path": "a"}},
            ),
            blocks("tool", {"type": "tool_result", "tool_use_id": "c1", "name": "read", "content": "zebra"}),
            blocks("assistant", {"type": "text", "text": "A zebra."}),
            {"event": "tool_start", "calls": [{"id": "c1", "name": "read"}], "ts": "2026-05-19T08:00:02Z"},
            {"event": "tool_result", "call_id": "c1", "duration_ms": 12, "ts": "2026-05-19T08:00:03Z"},
            done("2026-05-19T08:00:04Z", iterations=2),
        ],
    )
    write_steps(
        sessions / "crab_tg-12345_1",
        V21_META,
        [user("old"), assistant("old answer"), boundary("deploy-1"), user("new"), assistant("new answer")],
    )
    write_lines(
        sessions / "crab_user_2_fix-the-tests.jsonl",
        {"agent": "crab", "created_by": "user", "created_at": "2026-03-28T00:00:00+00:00"},
        [
            {"role": "user", "content": "first"},
            {"compact": "They spoke."},
            {"role": "user", "content": "last"},
        ],
    )
    (home / "memory.db").write_bytes(memory((0, "deploy-1x", "a note"), (1, "deploy-1", "They deployed.")))
    return sessions
