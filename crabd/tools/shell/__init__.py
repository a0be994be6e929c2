"""Commands: run, kept together to their end, confined, and told to a model."""
