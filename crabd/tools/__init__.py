"""What agents can do. A tool knows its arguments and its limits, not the session it works for."""
