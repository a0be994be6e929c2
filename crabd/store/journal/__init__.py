"""One append-only file of JSON lines per session, and what is kept beside it. The default store."""
