"""Questions to an archive: is it whole, and what is in it."""
