"""Latent priors: an autoencoder of planes and a network that reads a prompt, trained on packs.

``python -m pipelines.training.latents train``; packs are those of ``make train-pack``.
"""
