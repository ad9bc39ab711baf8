"""Files that are whole whenever they are read, and what may stand in them."""
