"""From source files to sealed archives: what will be done, how, where to, and the doing of it."""
