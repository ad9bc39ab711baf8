"""Every task, played in environments of its own."""
