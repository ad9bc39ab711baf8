"""What SB3's own tests ask of a policy, asked of ours: behaviours, placements, and who can't what.

``docs/guests.md`` shows the table; ``test_sb3_table.py`` holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import arena
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.envs import BitFlippingEnv

PLACEMENTS = ("none", "middle", "final", "big")
ON_POLICY = ("A2C", "PPO")
WITH_ACTOR = ("SAC", "TD3", "DDPG")
OFF_POLICY = ("DQN", *WITH_ACTOR)
EVERY = (*ON_POLICY, *OFF_POLICY)


class Behaviour(NamedTuple):
    """A row of the table.

    :param file: of SB3's tests that ask for it
    :param text: what a policy does
    """

    file: str
    text: str


BEHAVIOURS = {
    "action noise": Behaviour("run", "learns with noise on its actions, of each kind"),
    "advantages": Behaviour("run", "learns with advantages normalised or not"),
    "clipped values": Behaviour("run", "learns with PPO's values clipped or not"),
    "entropy": Behaviour("run", "learns with SAC's entropy coefficient fixed or learned"),
    "critics": Behaviour("run", "learns with any number of critics"),
    "train_freq": Behaviour("run", "learns every so many steps or episodes, after loading too"),
    "several environments": Behaviour("run", "learns off-policy from several environments"),
    "one row": Behaviour("run", "learns from a batch of one row"),
    "parameters": Behaviour(
        "save_load", "`get_parameters`, `set_parameters`: whole, in part, and refused where wrong"
    ),
    "model": Behaviour("save_load", "`save`, `load` and learn on: same weights, same actions"),
    "compiled": Behaviour("save_load", "saves and loads after `torch.compile`"),
    "set_env": Behaviour("save_load", "changes its environment, and keeps or resets its counter"),
    "exclude": Behaviour("save_load", "leaves out, puts in and replaces what a file holds"),
    "coefficient": Behaviour("save_load", "keeps SAC's entropy coefficient in a file"),
    "pictures from a file": Behaviour("save_load", "goes on from a file with pictures"),
    "replay": Behaviour("save_load", "saves and loads its replay buffer, a thrifty one too"),
    "policy": Behaviour("save_load", "`policy.save`, `policy.load`: same weights, same actions"),
    "policy with gSDE": Behaviour("save_load", "the same with gSDE"),
    "part": Behaviour(
        "save_load", "an actor or a Q network saved alone stays what it was: class, options, actions"
    ),
    "critic": Behaviour("save_load", "critics saved alone stay what they were"),
    "open file": Behaviour("save_load", "saves to a path, a string or an open file, and closes it"),
    "schedule": Behaviour("save_load", "keeps a learning rate that is a function"),
    "default net_arch": Behaviour("save_load", "takes `net_arch=None` for the default"),
    "predict": Behaviour("predict", "predicts for one observation and for several"),
    "guesses": Behaviour("predict", "DQN explores by guessing, for one observation and several"),
    "own space": Behaviour("predict", "takes subclasses of spaces"),
    "mixed up": Behaviour("predict", "says so if given what `env.reset()` of Gymnasium returns"),
    "seed": Behaviour("deterministic", "does the same twice with the same seed"),
    "net_arch": Behaviour("custom_policy", "takes any number and width of hidden layers"),
    "no hidden layer": Behaviour("custom_policy", "takes a `net_arch` without a hidden layer"),
    "optimiser": Behaviour("custom_policy", "takes another optimiser and its arguments"),
    "goals": Behaviour("dict_env", "learns on-policy in an environment of goals"),
    "one key": Behaviour("dict_env", "a Dict of one vector gives the policy of that vector"),
    "keys": Behaviour("dict_env", "takes a Dict of a picture, a vector and a number"),
    "stacked keys": Behaviour("dict_env", "takes a Dict of stacked frames"),
    "normalised keys": Behaviour("dict_env", "takes a Dict of which some keys are normalised"),
    "nested": Behaviour("dict_env", "refuses Dicts in Dicts as SB3 does"),
    "observations": Behaviour("spaces", "takes discrete and binary observations"),
    "actions": Behaviour("spaces", "takes every action space of its algorithm, refuses others"),
    "gSDE of many": Behaviour("spaces", "gSDE with actions of two axes, in the warm-up too"),
    "float64": Behaviour("spaces", "takes float64 and answers in the environment's type"),
    "own extractor": Behaviour(
        "train_eval_mode", "takes a features extractor of the user's own, with batch norm"
    ),
    "batch norm in targets": Behaviour(
        "train_eval_mode", "copies running statistics to target networks, whatever `tau`"
    ),
    "callbacks": Behaviour("callbacks", "runs SB3's callbacks, alone, listed and nested"),
    "cancelled": Behaviour("callbacks", "stops where a callback says so"),
    "success": Behaviour("callbacks", "counts successes in evaluations"),
    "checkpoint": Behaviour("callbacks", "checkpoints model, replay buffer and normaliser"),
    "gSDE": Behaviour("sde", "learns with gSDE, squashed or not, expln or not"),
    "gSDE refused": Behaviour("sde", "refuses gSDE and squashing where SB3 does"),
    "HER": Behaviour("her", "learns with HER, for each way to choose goals"),
    "HER from a file": Behaviour("her", "goes on from a file with HER, its buffer too"),
    "HER of pictures": Behaviour("her", "learns with HER from pictures"),
    "n steps": Behaviour("n_step_replay", "learns from returns of several steps"),
    "pictures": Behaviour(
        "cnn", "encodes pictures, channels first or last; same actions from a file"
    ),
    "shared": Behaviour("cnn", "shares its features extractor or not, in target networks too"),
    "targets": Behaviour("cnn", "target networks follow by `tau`, and by nothing else"),
    "scaled": Behaviour("cnn", "takes scaled pictures with `normalize_images=False`"),
    "normalised": Behaviour("vec_normalize", "learns under VecNormalize, HER too, and changes it"),
    "stacked": Behaviour("vec_stacked_obs", "takes stacked vectors and pictures"),
    "identity": Behaviour("identity", "learns to say what it sees"),
}


def bits(*, pictures: bool = False, discrete: bool = False, n: int = 4) -> BitFlippingEnv:
    """Return SB3's environment of goals."""
    return BitFlippingEnv(n_bits=n, continuous=not discrete, image_obs_space=pictures)


class Exception_(NamedTuple):  # noqa: N801  # not an exception of Python's
    """What a placement can't do.

    :param behaviour: a key of ``BEHAVIOURS``
    :param placement: who can't
    :param reason: why, a sentence for the table
    :param error: a pattern of what it says
    :param attempts: what is refused, by name
    :param kind: of the error
    """

    behaviour: str
    placement: str
    reason: str
    error: str
    attempts: Mapping[str, Callable[[], object]]
    kind: type[Exception] = ValueError


def keeping(behaviour: str) -> list[str]:
    """Return the placements that a behaviour is asked of: all but the exceptions."""
    cannot = {each.placement for each in EXCEPTIONS if each.behaviour == behaviour}
    return [placement for placement in PLACEMENTS if placement not in cannot]


def over(
    behaviour: str, algorithms: Sequence[str] = EVERY, **options: Mapping[str, Any]
) -> pytest.MarkDecorator:
    """Parametrise a test over algorithms, the placements that keep a behaviour, and options.

    Every algorithm meets every placement; of the options each such pair takes one, in turn, and
    the rest of the product is marked ``full``.

    :param behaviour: a key of ``BEHAVIOURS``
    :param algorithms: the test's ``algorithm``
    :param options: further arguments of the test, each a dict from a word to a value
    """
    return pytest.mark.parametrize(
        ["algorithm", "placement", *options],
        list(_parameters(algorithms, keeping(behaviour), list(options.values()))),
    )


def _parameters(
    algorithms: Sequence[str], placements: Sequence[str], options: Sequence[Mapping[str, Any]]
) -> Iterator[Any]:
    choices = list(product(*(each.items() for each in options)))
    for i, algorithm in enumerate(algorithms):
        for j, placement in enumerate(placements):
            for k, chosen in enumerate(choices):
                words = [str(word) for word, _ in chosen]
                yield pytest.param(
                    algorithm,
                    placement,
                    *(value for _, value in chosen),
                    id="-".join([algorithm, placement, *words]),
                    marks=[] if k == (i + j) % len(choices) else pytest.mark.full,
                )


# More than one router, so that what is kept beside the weights is asked too.
ROUTERS = {"final": {"router": "top_k", "top_k": 2}, "big": {"num_experts": 2}}


def make(
    algorithm: str, placement: str, alias: str = "MoeMlpPolicy", env: Any = None, **kwargs: Any
) -> Any:
    """Return a small model of a placement, as ``arena.make``."""
    kwargs = {"net_arch": [8], **ROUTERS.get(placement, {}), **kwargs}
    return arena.make(algorithm, alias, env, placement=placement, **kwargs)
EXCEPTIONS = []
