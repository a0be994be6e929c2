"""Ratios measured in one run: what is compared takes turns, so a busy machine slows all of it or none."""
