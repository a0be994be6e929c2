"""The well-known servers: where their APIs begin, which keys they want, how they are spoken to. Pure."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

# How a server is spoken to; ``dialects`` has a class for each.
Kind: TypeAlias = Literal["openai", "openai-responses", "anthropic"]


class Preset(Struct, frozen=True):
    """``model`` is what is asked when nobody says; a service without one is never taken for its key alone."""

    base_url: str
    variable: str | None
    model: str | None = None
    kind: Kind = "openai"


# In the order in which a key of the environment is taken. The models are small ones, cheap to begin with.
PRESETS = {
    "openai": Preset("https://api.openai.com/v1", "OPENAI_API_KEY", "gpt-5.4-mini", "openai-responses"),
    "anthropic": Preset("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", "claude-haiku-5-5", "anthropic"),
    "openrouter": Preset("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "openrouter/auto"),
    "groq": Preset("https://api.groq.com/openai/v1", "GROQ_API_KEY", "openai/gpt-oss-20b"),
    "mistral": Preset("https://api.mistral.ai/v1", "MISTRAL_API_KEY", "mistral-small-latest"),
    "deepseek": Preset("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", "deepseek-v4-flash"),
    "gemini": Preset(
        "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", "gemini-flash-latest"
    ),
    "xai": Preset("https://api.x.ai/v1", "XAI_API_KEY", "grok-4.3"),
    "cerebras": Preset("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY", "gpt-oss-120b"),
    "moonshot": Preset("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY", "kimi-k2.6"),
    "zai": Preset("https://api.z.ai/api/paas/v4", "ZAI_API_KEY", "glm-4.7"),
    # These have hundreds of models, or keys that are often set for something else.
    "together": Preset("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "fireworks": Preset("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    "nvidia": Preset("https://integrate.api.nvidia.com/v1", "NVIDIA_API_KEY"),
    "huggingface": Preset("https://router.huggingface.co/v1", "HF_TOKEN"),
    "dashscope": Preset("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
    # On this machine, at the ports they take by themselves.
    "lmstudio": Preset("http://127.0.0.1:1234/v1", None),
    "llamacpp": Preset("http://127.0.0.1:8080/v1", None),
    "vllm": Preset("http://127.0.0.1:8000/v1", None),
}


def service_at(base_url: str | None) -> str | None:
    """Name the service whose API begins there; null when it is none of ours."""
    return next((name for name, preset in PRESETS.items() if preset.base_url == base_url), None)
