"""What joins this package to others: the Hugging Face Hub, and rl-baselines3-zoo."""
