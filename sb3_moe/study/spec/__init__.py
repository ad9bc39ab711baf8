"""What a study asks: networks, tasks, and a grid of runs."""
