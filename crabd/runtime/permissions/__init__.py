"""Permissions: what may be done, what is asked, and what a shell command does."""
