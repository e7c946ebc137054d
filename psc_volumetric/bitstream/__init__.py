"""Bytes of the format: header, index, sections, checks. Part of the format; no torch here."""
