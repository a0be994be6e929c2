"""Every way in which a model server can fail, what it takes to show it, and what has to come of it."""

from __future__ import annotations

import gzip
from datetime import timedelta
from email.utils import format_datetime
from typing import Literal

from msgspec import Struct

from crabd.messages import utc_now
from crabd.providers.settings import Deadlines
from tests.faults.model_server import END, Bytes, Script, chunk, data, head, say

KEY = "sk-canary-0123456789"
# Short where a case waits for it, else of no consequence.
SOON = 0.5
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
JSON = "application/json"
WORDS = b'{"error":{"message":"%b"}}'
HALF = head() + say("half")


class Fault(Struct, frozen=True, kw_only=True):
    """What the server does, and what comes of it: an error of that ``kind`` with these ``words``, or none.

    ``text`` is the part of the answer that was heard. ``hangs``: what is held is never let go.
    """

    script: Script
    kind: str | None
    words: str = ""
    text: str = ""
    tries: int = 1
    hangs: bool = False
    place: Literal["open", "refusing", "deaf", "tls", "plain for tls", "tls for plain"] = "open"
    deadlines: Deadlines = Deadlines()
    said: str = "go"

    @property
    def is_in_mid_text(self) -> bool:
        """All of the text has come when the server holds."""
        first = self.script[0] if self.script else None
        return isinstance(first, Bytes) and say("half") in first.data


def refusal(status: int, words: bytes, **headers: str) -> Script:
    return ("hold", Bytes(head(status, JSON, **headers) + WORDS % words), "close")


def in_date(seconds: float) -> str:
    return format_datetime(utc_now() + timedelta(seconds=seconds), usegmt=True)


FAULTS = {
    "nobody listens": Fault(
        script=(), kind="unavailable", words="nobody listens there", place="refusing", tries=0
    ),
    "accepts and hangs": Fault(
        script=("hold",),
        kind="unavailable",
        words="silent for 0.5 s",
        hangs=True,
        deadlines=Deadlines(first_byte=SOON),
    ),
    "accepts, hangs and reads nothing": Fault(
        script=("hold",),
        kind="unavailable",
        words="silent for 0.5 s",
        hangs=True,
        place="deaf",
        deadlines=Deadlines(first_byte=SOON),
        said="x" * 6_000_000,
    ),
    "hangs in the TLS handshake": Fault(
        script=("hold",),
        kind="unavailable",
        words="cannot connect: no answer in time",
        hangs=True,
        place="plain for tls",
        deadlines=Deadlines(connect=SOON),
    ),
    "hangs after the headers": Fault(
        script=(Bytes(head()), "hold"),
        kind="unavailable",
        words="silent for 0.5 s",
        hangs=True,
        deadlines=Deadlines(first_byte=SOON),
    ),
    "hangs in the middle of the headers": Fault(
        script=(Bytes(head()[:-30]), "hold"),
        kind="unavailable",
        words="silent for 0.5 s",
        hangs=True,
        deadlines=Deadlines(first_byte=SOON),
    ),
    "hangs after some chunks": Fault(
        script=(Bytes(HALF), "hold"),
        kind="unavailable",
        words="silent for 0.5 s",
        text="half",
        hangs=True,
        deadlines=Deadlines(idle=SOON),
    ),
    "never ends": Fault(
        script=(Bytes(HALF), "hold"),
        kind="unavailable",
        words="too long as a whole",
        text="half",
        hangs=True,
        deadlines=Deadlines(total=SOON),
    ),
    "closes at once": Fault(script=("hold", "close"), kind="bad_reply", words="cut off", tries=3),
    "resets at once": Fault(script=("hold", "reset"), kind="unavailable", words="reset", tries=3),
    "resets after the headers": Fault(
        script=(Bytes(head()), "hold", "reset"), kind="unavailable", words="reset", tries=3
    ),
    "resets after some chunks": Fault(
        script=(Bytes(HALF), "hold", "reset"), kind="unavailable", words="reset", text="half"
    ),
    "closes without an end": Fault(
        script=(Bytes(HALF), "hold", "close"), kind="bad_reply", words="cut off", text="half"
    ),
    "closes in the middle of a character": Fault(
        script=(Bytes(HALF + say("🦀")[:-20]), "hold", "close"),
        kind="bad_reply",
        words="cut off",
        text="half",
    ),
    "sends half a character": Fault(
        script=(Bytes(HALF + say("🦀").replace("🦀".encode(), b"\xf0\x9f")), "hold", Bytes(END), "close"),
        kind=None,
        text="half\ufffd",
    ),
    "closes in a chunked body": Fault(
        script=(Bytes(CHUNKED + chunk(say("half")) + b"ff\r\nda"), "hold", "close"),
        kind="bad_reply",
        words="cut off",
        text="half",
    ),
    "closes before the promised length": Fault(
        script=(Bytes(head(content_length="999") + say("half")), "hold", "close"),
        kind="bad_reply",
        words="cut off",
        text="half",
    ),
    "sends garbage for a chunk": Fault(
        script=(Bytes(CHUNKED + chunk(say("half"))), "hold", Bytes(b"zz\r\n" + KEY.encode()), "close"),
        kind="bad_reply",
        words="cut off",
        text="half",
    ),
    "sends garbage for a head": Fault(
        script=("hold", Bytes(b"%b %b\r\n\r\n" % (KEY.encode(), b"\xff" * 99)), "close"),
        kind="bad_reply",
        words="cut off",
        tries=3,
    ),
    "floods with headers": Fault(
        script=(
            "hold",
            Bytes(b"HTTP/1.1 200 OK\r\n"),
            Bytes(b"x-flood: %b\r\n" % (b"x" * 999), 999),
            "close",
        ),
        kind="bad_reply",
        words="cut off",
        tries=3,
    ),
    "sends a line without end": Fault(
        script=(Bytes(HALF), "hold", Bytes(b"data: "), Bytes(b"x" * 99_999, 99), "close"),
        kind="bad_reply",
        words="longer than",
        text="half",
    ),
    "sends ten megabytes of comments first": Fault(
        script=(
            Bytes(head()),
            "hold",
            Bytes(b": %b\n\n" % (b"x" * 9_999), 1000),
            Bytes(say("late") + END),
            "close",
        ),
        kind=None,
        text="late",
    ),
    "sends byte by byte": Fault(
        script=("hold", Bytes(head() + say("slow") + END, one_by_one=True), "close"), kind=None, text="slow"
    ),
    "sends plain text": Fault(
        script=("hold", Bytes(head(200, "text/plain") + b"hello"), "close"),
        kind="bad_reply",
        words="text/plain, not text/event-stream",
    ),
    "sends a page": Fault(
        script=("hold", Bytes(head(200, "text/html") + b"<html>Welcome to nginx"), "close"),
        kind="bad_reply",
        words="text/html, not text/event-stream",
    ),
    "sends JSON that is no answer": Fault(
        script=("hold", Bytes(head(200, JSON) + b'{"choices":[]}'), "close"),
        kind="bad_reply",
        words="it is JSON, and does not say why it stopped",
    ),
    "sends a type that quotes the key": Fault(
        script=("hold", Bytes(head(200, f"text/{KEY}") + b"hello"), "close"), kind="bad_reply", words="[key]"
    ),
    "compresses": Fault(
        script=("hold", Bytes(head(content_encoding="gzip") + gzip.compress(say("hi") + END)), "close"),
        kind="bad_reply",
        words="compressed",
    ),
    "compresses a refusal": Fault(
        script=(
            "hold",
            Bytes(
                head(503, JSON, content_encoding="gzip", retry_after_ms="1") + gzip.compress(WORDS % b"no")
            ),
            "close",
        ),
        kind="unavailable",
        words="503",
        tries=3,
    ),
    "sends nothing after the headers": Fault(
        script=("hold", Bytes(head()), "close"), kind="bad_reply", words="cut off", tries=3
    ),
    "sends an empty body": Fault(
        script=("hold", Bytes(head(content_length="0")), "close"), kind="bad_reply", words="cut off", tries=3
    ),
    "sends no JSON": Fault(
        script=(Bytes(HALF), "hold", Bytes(b"data: oops\n\n"), "close"),
        kind="bad_reply",
        words="makes no sense",
        text="half",
    ),
    "sends JSON of the wrong shape": Fault(
        script=(Bytes(HALF), "hold", Bytes(data({"choices": "oops"})), "close"),
        kind="bad_reply",
        words="makes no sense",
        text="half",
    ),
    "breaks off in a tool call": Fault(
        script=(
            Bytes(
                HALF
                + data(
                    {
                        "choices": [
                            {
                                "delta": {
                                    "tool_calls": [
                                        {
                                            "index": 0,
                                            "id": "a",
                                            "function": {"name": "read", "arguments": '{"pa'},
                                        }
                                    ]
                                }
                            }
                        ]
                    }
                )
            ),
            "hold",
            "reset",
        ),
        kind="unavailable",
        words="reset",
        text="half",
    ),
    "reports an error first": Fault(
        script=("hold", Bytes(head() + data({"error": {"message": "no model", "code": 404}})), "close"),
        kind="bad_reply",
        words="no model",
    ),
    "reports an error in its answer": Fault(
        script=(Bytes(HALF), "hold", Bytes(data({"error": {"message": f"no {KEY}", "code": 502}})), "close"),
        kind="unavailable",
        words="no [key]",
        text="half",
    ),
    "redirects in a loop": Fault(
        script=("hold", Bytes(head(307, location=f"/v1/{KEY}/chat/completions?a=b") + b""), "close"),
        kind="bad_reply",
        words="redirects are not followed; if /v1/[key]/chat/completions is right",
    ),
    "sends informational heads and no answer": Fault(
        script=(Bytes(b"HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n", 99), "hold"),
        kind="unavailable",
        words="silent for 0.5 s",
        hangs=True,
        deadlines=Deadlines(first_byte=SOON),
    ),
    "does not know the key": Fault(
        script=refusal(401, b"bad key %b" % KEY.encode()), kind="auth", words="401: bad key [key]"
    ),
    "forbids it": Fault(script=refusal(403, b"not for you"), kind="auth", words="403: not for you"),
    "wants money": Fault(script=refusal(402, b"no credits"), kind="bad_reply", words="402: no credits"),
    "does not like the request": Fault(
        script=refusal(400, b"temperature must be below 2"), kind="bad_reply", words="400: temperature"
    ),
    "finds the conversation too long": Fault(
        script=refusal(400, b"This model's maximum context length is 8192 tokens."),
        kind="context_too_long",
        words="8192",
        # Then for a summary of it, three times of less and less, and for the answer to what an extract left.
        tries=5,
    ),
    "has a limit, in seconds": Fault(
        script=refusal(429, b"slow down", retry_after="90"), kind="rate_limited", words="slow down"
    ),
    "has a limit, until a date": Fault(
        script=refusal(429, b"slow down", retry_after=in_date(3600)), kind="rate_limited", words="slow down"
    ),
    "has a limit for a moment": Fault(
        script=refusal(429, b"slow down", retry_after=in_date(-9)), kind="rate_limited", words="slow", tries=3
    ),
    "fails": Fault(
        script=refusal(500, b"oh", retry_after_ms="1"), kind="unavailable", words="500: oh", tries=3
    ),
    "is overloaded": Fault(
        script=refusal(529, b"busy", retry_after_ms="1"), kind="unavailable", words="529: busy", tries=3
    ),
    "is away behind a gateway with pages": Fault(
        script=("hold", Bytes(head(502, "text/html", retry_after_ms="1") + b"<html>Bad Gateway"), "close"),
        kind="unavailable",
        words="502: the server does not say why",
        tries=3,
    ),
    "refuses and hangs": Fault(
        script=(Bytes(head(401, JSON) + WORDS[:20]), "hold"),
        kind="auth",
        words="401",
        hangs=True,
        deadlines=Deadlines(idle=SOON),
    ),
    "resets in the TLS handshake": Fault(
        script=("hold", "reset"),
        kind="unavailable",
        words="cannot connect: Connection reset by peer",
        tries=3,
        place="plain for tls",
    ),
    "speaks no TLS": Fault(
        script=("hold", Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "close"),
        kind="unavailable",
        words="is https right in base_url?",
        place="plain for tls",
    ),
    "speaks TLS": Fault(script=(), kind="bad_reply", words="cut off", place="tls for plain", tries=0),
    "has a certificate of nobody we know": Fault(
        script=(), kind="unavailable", words="SSL_CERT_FILE", place="tls", tries=0
    ),
}
