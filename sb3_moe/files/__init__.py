"""Files that are whole whenever they are read."""
