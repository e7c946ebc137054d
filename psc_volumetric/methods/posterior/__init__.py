"""The method ``posterior``: the wavelet's stream, and a network's mean and variance given it."""
