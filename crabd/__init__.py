"""crabd: a per-user daemon that hosts LLM agents and their sessions."""

__version__ = "0.1.0"
