"""From archives to values and files: regions, levels, sigma, and the proof of what was restored."""
