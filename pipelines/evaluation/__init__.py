"""``psc-archive evaluate``: this codec and its peers on the same volumes."""
