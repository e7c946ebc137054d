"""Video files, kept as they are, with their key frames as a volume."""
