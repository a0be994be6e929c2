"""Files: found, read, changed all or none, and kept as they were."""
