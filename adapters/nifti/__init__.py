"""NIfTI-1 and NIfTI-2 images, in and out."""
