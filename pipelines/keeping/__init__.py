"""Keeping archives for years: copies elsewhere, repair from them, signatures, and their end."""
