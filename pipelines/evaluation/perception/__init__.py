"""Whether decoded volumes look like real ones: distances between distributions, without weights."""
