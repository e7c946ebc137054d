"""Symbols to bits and back: quantisers, probability tables, the range coder. Part of the format."""
