"""A language model that recites, in a file of its own: what it says is decided when the file is written.

It is a real Llama, of one layer that adds nothing, in GGUF, as llama.cpp loads it. What comes next follows
from the last token alone: the output matrix has, as the row of a token, the embedding of the one before it.
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

Value: TypeAlias = "bool | int | float | str | Sequence[int] | Sequence[float] | Sequence[str]"
Rows: TypeAlias = "list[list[float]]"

# Wide enough that no two random embeddings of so small a vocabulary are alike.
_WIDTH = 64
_ALIGNMENT = 32
# Control tokens first, then one for each byte: with these it reads any text.
_UNKNOWN, _BEGIN, _END = 0, 1, 2
_CONTROLS = ("<unk>", "<s>", "<|im_end|>", "<|im_start|>")
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_NEWLINE = len(_CONTROLS) + ord("\n")
# The kinds of tokens: unknown, control, byte, and normal for what it recites.
_TYPES = (2, *[3] * (len(_CONTROLS) - 1), *[6] * len(_BYTES))

# As Qwen has it, whose ways to think and to call tools llama.cpp knows. Recitals follow its last newline.
_TEMPLATE = """\
{%- if tools or messages[0].role == 'system' %}{{ '<|im_start|>system' }}
{%- if messages[0].role == 'system' %}{{ '\\n' + messages[0].content }}{%- endif %}
{%- if tools %}{{ '\\n\\n# Tools\\n<tools>' }}
{%- for tool in tools %}{{ '\\n' }}{{ tool | tojson }}{%- endfor %}
{{- '\\n</tools>\\n<tool_call>\\n{"name": NAME, "arguments": OBJECT}\\n</tool_call>' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}{{ '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}{{ '<|im_start|>assistant\\n' }}
{%- if message.reasoning_content %}
{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
{%- endif %}
{%- if message.content %}{{ message.content }}{%- endif %}
{%- for call in message.tool_calls %}{%- set call = call.function %}
{{- '\\n<tool_call>\\n{"name": "' }}{{ call.name }}{{ '", "arguments": ' }}
{{- call.arguments | tojson }}{{ '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"""


def write_reciter(path: Path, *pieces: str, endlessly: bool = False) -> None:
    """Write a model that answers everything with the pieces, each a token of its own, and none of them twice.

    With ``endlessly`` it begins again whenever it is through, else it stops there.
    """
    vocabulary = [*_CONTROLS, *_BYTES, *pieces]
    first = len(vocabulary) - len(pieces)
    recital = [_NEWLINE, *range(first, len(vocabulary)), first if endlessly else _END]
    choice = random.Random(1).choice
    embedding = [[choice((-1.0, 1.0)) for _ in range(_WIDTH)] for _ in vocabulary]
    output = [[0.0] * _WIDTH for _ in vocabulary]
    for token, following in pairwise(recital):
        # Where there is no end, the first piece follows the newline, and the last one as well.
        output[following] = [a + b for a, b in zip(output[following], embedding[token], strict=True)]
    tensors = {"token_embd.weight": embedding, "output.weight": output, **_idle_layer()}
    path.write_bytes(_gguf(_facts(vocabulary), tensors))


def _idle_layer() -> dict[str, Rows]:
    """Make a layer whose attention and network come to zero, and the norms."""
    ones = [[1.0] * _WIDTH]
    zeros = [[0.0] * _WIDTH] * _WIDTH
    norms = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")
    idle = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    return {f"{name}.weight": ones for name in norms} | {f"blk.0.{name}.weight": zeros for name in idle}


def _facts(vocabulary: Sequence[str]) -> dict[str, Value]:
    recited = len(vocabulary) - len(_TYPES)
    return {
        "general.architecture": "llama",
        "general.name": "reciter",
        "llama.context_length": 1 << 20,
        "llama.embedding_length": _WIDTH,
        "llama.feed_forward_length": _WIDTH,
        "llama.block_count": 1,
        "llama.attention.head_count": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": _WIDTH,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [*_TYPES, *[1] * recited],
        # All alike: how a text is cut into tokens does not matter, for only its last one does.
        "tokenizer.ggml.scores": [0.0] * len(vocabulary),
        "tokenizer.ggml.unknown_token_id": _UNKNOWN,
        "tokenizer.ggml.bos_token_id": _BEGIN,
        "tokenizer.ggml.eos_token_id": _END,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": _TEMPLATE,
    }


def _gguf(facts: Mapping[str, Value], tensors: Mapping[str, Rows]) -> bytes:
    """Lay a model out: the head, the facts, where the tensors are, and then these."""
    places: list[bytes] = []
    data = b""
    for name, rows in tensors.items():
        # A matrix is told by the length of its rows first; a single row is a vector.
        shape = (len(rows[0]), len(rows)) if len(rows) > 1 else (len(rows[0]),)
        place = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        places.append(_text(name) + place)
        data += _aligned(array("f", [figure for row in rows for figure in row]).tobytes())
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts))
    told = b"".join(_text(name) + _typed(value) for name, value in facts.items())
    return _aligned(head + told + b"".join(places)) + data


def _typed(value: Value) -> bytes:
    """Spell a value with its type before it; a list has that of its elements. Single figures have no sign."""
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _text(value)
        case [int(), *_]:
            return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
        case _:
            elements = [_typed(element) for element in value]
            head = struct.pack("<I", 9) + elements[0][:4] + struct.pack("<Q", len(elements))
            return head + b"".join(element[4:] for element in elements)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
