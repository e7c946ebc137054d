"""Where source formats meet the codec: archive, restore, verify, evaluate and the command line."""
