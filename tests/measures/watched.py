"""Batches of observations, what networks make of them, and units that are made silent."""

import numpy as np

from sb3_moe.measures.resets import resettable_layers
from sb3_moe.policies.networks import networks_of


def batch(model, n=32):
    """Draw observations from the space of a model, numbers within 3 of 0."""
    space = model.observation_space
    space.seed(1)
    drawn = np.stack([space.sample() for _ in range(n)])
    return drawn.clip(-3, 3) if drawn.dtype.kind == "f" else drawn


def outputs(policy, obs):
    """Return one number of each network for each observation."""
    return networks_of(policy).outputs(policy.obs_to_tensor(obs)[0])


def silence(policy, units=3):
    """Silence the first units of every hidden layer by a bias that nothing overcomes."""
    for layer in resettable_layers(policy):
        (bias,) = (each for name, each in layer.feeder.named_parameters() if "bias" in name)
        bias.data[..., :units] = -1e4
