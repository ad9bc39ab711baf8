"""What an optimiser is taught by hooks: torch's own takes every step."""
