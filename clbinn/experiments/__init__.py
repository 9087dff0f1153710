"""Runs: one (`run.run`), many (`grid.run_grid`), a search over settings (`tune.tune`), and what they leave on disk."""
