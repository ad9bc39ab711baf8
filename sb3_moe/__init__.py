"""Mixture-of-experts policies for Stable-Baselines3."""
