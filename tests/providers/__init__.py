"""Tests of ``crabd.providers``."""
