"""The full text of all sessions: derived from the store, never the truth, and made anew when in doubt."""
