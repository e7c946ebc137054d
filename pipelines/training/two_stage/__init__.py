"""Autoencoders for the method ``two-stage``: trained on packs, converted to integers.

``python -m pipelines.training.two_stage train | convert``; packs are those of ``make train-pack``.
"""
