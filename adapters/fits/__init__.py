"""FITS files in and out."""
