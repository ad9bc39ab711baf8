"""Hyperparameters that train, as plain dicts to pass on: ``PPO(policy, env, **MINATAR_PPO)``.

SB3's defaults stay SB3's. On MinAtar they stall: at 1M steps of Breakout a learning rate of 3e-4
gives a return near 6, where 5e-3 gives several times that.
"""

from __future__ import annotations

from typing import Any

from torch import nn

# PureJaxRL's values for PPO on MinAtar, for 64 environments. Its value loss has an extra 1/2, so
# SB3's `vf_coef` is half of its 0.5. The encoder is flat for every placement: an encoder for some
# and none for others would confound a comparison.
MINATAR_PPO: dict[str, Any] = {
    "learning_rate": 5e-3,
    "n_steps": 128,
    "batch_size": 1024,
    "n_epochs": 4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "clip_range_vf": 0.2,
    "ent_coef": 0.01,
    "vf_coef": 0.25,
    "max_grad_norm": 0.5,
    "policy_kwargs": {
        "net_arch": [64, 64],
        "activation_fn": nn.ReLU,
        "features_extractor_kwargs": {"encoder": "flat"},
    },
}


def with_policy(preset: dict[str, Any], **policy_kwargs: Any) -> dict[str, Any]:
    """Return the preset with more ``policy_kwargs``: ``with_policy(MINATAR_PPO, placement="big")``.

    >>> with_policy(MINATAR_PPO, placement="big")["policy_kwargs"]["placement"]
    'big'

    :param preset: one of this module's dicts; it stays as it is
    :param policy_kwargs: added to its ``policy_kwargs``, and stronger than those
    """
    return preset | {"policy_kwargs": preset["policy_kwargs"] | policy_kwargs}
