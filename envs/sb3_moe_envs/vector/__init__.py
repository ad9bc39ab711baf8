"""Vector environments: one task many times, and many tasks side by side."""
