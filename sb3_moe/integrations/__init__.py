"""Use this package with the Hugging Face Hub and with rl-baselines3-zoo."""
