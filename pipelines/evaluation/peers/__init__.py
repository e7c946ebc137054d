"""Codecs of others, run on the same values and checked by decoding."""
