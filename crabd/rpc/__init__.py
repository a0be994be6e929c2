"""JSON-RPC 2.0 over a byte stream. This room knows no agents and imports nothing of ours."""
