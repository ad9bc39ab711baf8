"""Vector environments: many copies of a task, and many tasks side by side."""
