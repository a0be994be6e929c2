"""crabctl: the thin client of crabd. It starts at the speed of bare Python, so nothing here imports much."""
