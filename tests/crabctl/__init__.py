"""Tests of crabctl: its parts, and the program itself against a daemon of a few lines and the real one."""
