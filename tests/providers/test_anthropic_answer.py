"""What servers of Anthropic's dialect tell of their models."""

from __future__ import annotations

from crabd.providers.anthropic_answer import read_models
from crabd.providers.base import ModelInfo


def test_the_window_is_read_as_anthropic_tells_it_and_as_llama_cpp_does() -> None:
    anthropic = b'{"id": "a", "type": "model", "max_input_tokens": 200000, "max_tokens": 64000}'
    llama_cpp = b'{"id": "b", "object": "model", "owned_by": "llamacpp", "meta": {"n_ctx": 8192}}'

    models = read_models("test", b'{"data": [%b, %b, {"id": "c"}]}' % (anthropic, llama_cpp))

    assert models == [
        ModelInfo(id="test/a", provider="test", context_window=200_000, max_output=64_000),
        ModelInfo(id="test/b", provider="test", context_window=8192),
        ModelInfo(id="test/c", provider="test"),
    ]
