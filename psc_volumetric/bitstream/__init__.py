"""Bytes of the format: header, index, sections, checks; no torch here."""
