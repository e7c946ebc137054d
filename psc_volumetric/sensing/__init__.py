"""Which measurements to take, and what they say about the tile. Part of the format."""
