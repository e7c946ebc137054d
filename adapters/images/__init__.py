"""Photographs and stacks of images: PNG, TIFF and JPEG, in and out."""
