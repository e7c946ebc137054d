"""``python -m pipelines.demo``: real volumes through the whole program in a few minutes."""
