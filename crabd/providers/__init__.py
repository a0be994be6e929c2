"""Who thinks: one way to ask a model, several servers behind it. This room knows no sessions."""
