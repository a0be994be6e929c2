"""The Agent Client Protocol, version 1, as a dialect of a link: our sessions in an editor's words."""
