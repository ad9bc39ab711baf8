"""Hyperparameters as plain dicts to pass on: ``PPO(policy, env, **MINATAR_PPO)``.

This package does not change SB3's defaults, but on MinAtar they stall: after 1M steps of Breakout,
a learning rate of 3e-4 gives a return near 6, and 5e-3 several times that.

``presets.MOORE`` is a new dict at each access, and ``with_policy`` returns a new one at each
call: SB3's algorithms write into the ``policy_kwargs`` that they are given, and what one of them
wrote must not reach the next model. ``from sb3_moe.policies.presets import MOORE`` gives one
dict, the same for every later use.
"""

import copy
from typing import Any

from torch import nn

_PRESETS: dict[str, dict[str, Any]] = {
    # PureJaxRL's values for PPO on MinAtar, for 64 environments. Its value loss has an extra 1/2,
    # so SB3's `vf_coef` is half of its 0.5. The encoder is flat for every placement: an encoder for
    # some and none for others would confound a comparison.
    "MINATAR_PPO": {
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
    },
    # The next presets are `policy_kwargs`: `SAC("MoeMultiInputPolicy", env, policy_kwargs=MOORE)`.
    # SPHERE is for PPO and algorithms like it, the others are for any algorithm. docs/methods.md
    # tells what each preset takes from its paper, and what it leaves out.
    #
    # One body for all tasks, which sees the task id too, and a head for each task.
    "MULTI_HEAD": {"placement": "none", "head_router": "task"},
    # MOORE (arXiv 2311.11385): each expert is a whole body. The experts' outputs are made
    # orthonormal and weighed by the task. There is a head for each task.
    "MOORE": {
        "placement": "body",
        "num_experts": 4,
        "router": "embedding",
        "combine": "orthogonal",
        "head_router": "task",
        "task_input": "router",
    },
    # PaCo's parameterization: every layer is a sum of parameter sets that the task weighs, with the
    # same weights in all layers.
    "PACO": {
        "placement": "all",
        "num_experts": 5,
        "expert": "linear",
        "router": "embedding",
        "router_kwargs": {"bias": True, "shared": True},
        "task_input": "router",
    },
    # SimBa's networks (arXiv 2410.09754). The authors have one block of width 128 in the actor and
    # two of width 512 in the critic: add `net_arch=dict(pi=[128], qf=[512, 512])`, and put
    # VecNormalize around the environment.
    "SIMBA": {"placement": "none", "block": "simba", "activation_fn": nn.ReLU},
    # ScaleMoE's experts of features (ICML 2026), as far as its abstract tells: SimBa bodies, of
    # which a router picks two, before one head. For its experts of outputs use `placement="big"`.
    "SCALE_MOE_LIKE": {
        "placement": "body",
        "expert": "simba",
        "num_experts": 16,
        "router": "top_k",
        "top_k": 2,
        "renormalize": True,
        "activation_fn": nn.ReLU,
    },
    # BRC's networks (arXiv 2505.23150), for TQC: SimBa blocks that see a learned vector for each
    # task. Use it with `replay_buffer_class=ReturnScaledReplayBuffer`.
    "BRC_LIKE": {
        "placement": "none",
        "block": "simba",
        "task_embedding": 32,
        "activation_fn": nn.ReLU,
    },
    # SPHERE (arXiv 2605.04712): a router picks two of ten whole networks in the actor, and the
    # penalty has the strength of the authors' script. The authors also use PPO of SBX with 128
    # environments x 16 steps, minibatches of 64, target_kl 0.03, a learning rate that falls from
    # 3e-4 to 1e-4, and normalized observations (VecNormalize). The router's width is our choice.
    "SPHERE": {
        "placement": {"pi": "big", "vf": "none"},
        "router": "top_k",
        "num_experts": 10,
        "top_k": 2,
        "renormalize": True,
        "router_kwargs": {"hidden": [64]},
        "spectral_coef": 0.001,
        "activation_fn": nn.ReLU,
    },
    # Arguments of PPO and A2C after TOPPO (arXiv 2605.11473): LayerNorm in the critic, and values
    # normalized for each task. Use with the callbacks PopArtCallback and TaskAdvantageCallback, and
    # VecNormalize(env, norm_reward=False, norm_obs_keys=["obs"]).
    "BALANCED_PPO": {
        "normalize_advantage": False,
        "policy_kwargs": {
            "placement": "none",
            "block": {"vf": "layer_norm"},
            "head_router": {"vf": "task"},
            "popart": True,
        },
    },
    # Arguments of SAC, TQC and CrossQ: an entropy temperature for each task; the algorithm's own
    # temperature must then be 1.
    "TASK_TEMPERATURES": {"ent_coef": 1.0, "policy_kwargs": {"ent_coef_per_task": True}},
}


def __getattr__(name: str) -> dict[str, Any]:
    """Return a new copy of the preset of that name."""
    if name not in _PRESETS:
        raise AttributeError(f"{__name__} has {list(_PRESETS)}, got {name!r}")
    return copy.deepcopy(_PRESETS[name])


def __dir__() -> list[str]:
    """List the presets too."""
    return sorted({*globals(), *_PRESETS})


def with_policy(preset: dict[str, Any], **policy_kwargs: Any) -> dict[str, Any]:
    """Return the preset with more ``policy_kwargs``: ``with_policy(MINATAR_PPO, placement="big")``.

    A preset that is itself ``policy_kwargs``, such as ``MOORE``, gives ``policy_kwargs``.

    >>> from sb3_moe import presets
    >>> presets.with_policy(presets.MINATAR_PPO, placement="big")["policy_kwargs"]["placement"]
    'big'

    :param preset: one of this module's dicts; it is not changed
    :param policy_kwargs: added to the preset's ``policy_kwargs``, and override them
    """
    if "policy_kwargs" not in preset:
        return copy.deepcopy(preset) | policy_kwargs
    return preset | {"policy_kwargs": copy.deepcopy(preset["policy_kwargs"]) | policy_kwargs}
