"""The contract: what can be asked of the daemon, as types. This room does nothing by itself."""
