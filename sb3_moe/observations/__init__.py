"""What an observation holds: pictures and task ids, each read by one rule."""
