"""Mixture-of-experts policies for Stable-Baselines3.

Importing this package registers the policy names with every algorithm that is installed:
``PPO("MoeMlpPolicy", env)``.
"""

from sb3_moe.registration import register

__version__ = "0.1.0"

register()
