"""The method ``two-stage``: quantised latents of an autoencoder, entropy-coded, and its decoder."""
