"""Tools of MCP servers, through the official SDK. This room knows neither sessions' histories nor rules.

The SDK takes a second to import and some 40 MB, so that only ``link`` and ``pipe`` import it, and these are
loaded when the first server is wanted.
"""
