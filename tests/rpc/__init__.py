"""Tests of crabd.rpc."""
