"""The tasks of an environment: what they are called, and which one is on."""
