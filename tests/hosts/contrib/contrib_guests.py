"""What sb3-contrib's own tests ask of a policy, asked of ours: behaviours, and who can't what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import arena
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

PLACEMENTS = ("none", "middle", "final", "big")
ON_POLICY = ("TRPO", "MaskablePPO", "RecurrentPPO")
WITH_ACTOR = ("TQC", "CrossQ")
OFF_POLICY = ("QRDQN", *WITH_ACTOR)
EVERY = (*ON_POLICY, *OFF_POLICY)
WITH_PICTURES = tuple(name for name in EVERY if name != "CrossQ")
WITH_GSDE = ("TRPO", "RecurrentPPO", *WITH_ACTOR)
PICTURE = spaces.Box(0, 255, (36, 40, 2), np.uint8)
TWO_AXES = spaces.Box(-1, 1, (2, 2), np.float32)


class Behaviour(NamedTuple):
    """A row of the table.

    :param file: of sb3-contrib's tests that ask for it
    :param text: what a policy does
    """

    file: str
    text: str


BEHAVIOURS = {
    "entropy": Behaviour("run", "learns with the entropy coefficient fixed or learned"),
    "critics": Behaviour("run", "TQC and CrossQ learn with any number of critics"),
    "quantiles": Behaviour("run", "QRDQN and TQC learn with any number of quantiles"),
    "gSDE": Behaviour("run", "learns with gSDE, and draws its noise anew"),
    "n steps": Behaviour("run", "learns from returns of several steps"),
    "warm-up": Behaviour("run", "CrossQ's warm-up reaches every BatchRenorm"),
    "subsampling": Behaviour("run", "TRPO learns from a part of its rollout, whatever its actions"),
    "several environments": Behaviour("run", "learns off-policy from several environments"),
    "advantages": Behaviour("run", "MaskablePPO learns with advantages normalised or not"),
    "parameters": Behaviour(
        "save_load", "`get_parameters`, `set_parameters`: whole, in part, and refused where wrong"
    ),
    "model": Behaviour("save_load", "`save`, `load` and learn on: same weights, same actions"),
    "set_env": Behaviour("save_load", "learns on in another environment"),
    "exclude": Behaviour("save_load", "leaves out and puts in what a file holds"),
    "replay": Behaviour("save_load", "saves, loads and extends its replay buffer"),
    "policy": Behaviour("save_load", "`policy.save`, `policy.load`: same weights, same actions"),
    "coefficient": Behaviour("save_load", "keeps the entropy coefficient in a file"),
    "one key": Behaviour("dict_env", "a Dict of one vector gives the policy of that vector"),
    "keys": Behaviour("dict_env", "takes a Dict of a picture, a vector and a number"),
    "stacked keys": Behaviour("dict_env", "takes a Dict of stacked frames"),
    "normalised keys": Behaviour("dict_env", "takes a Dict of which some keys are normalised"),
    "pictures": Behaviour("cnn", "encodes pictures; the same actions from a file"),
    "shared": Behaviour("cnn", "shares its features extractor or not, in target networks too"),
    "scaled": Behaviour("cnn", "takes scaled pictures with `normalize_images=False`"),
    "seed": Behaviour("deterministic", "does the same twice with the same seed"),
    "identity": Behaviour("identity", "learns to say what it sees"),
    "masks": Behaviour("invalid_actions", "does nothing that is masked, whatever its actions"),
    "masks learned": Behaviour("invalid_actions", "learns with masks what it can't without"),
    "no masks": Behaviour("invalid_actions", "learns and is evaluated without masks, if told so"),
    "masks of many": Behaviour("invalid_actions", "learns and is evaluated in several at once"),
    "masked callbacks": Behaviour("invalid_actions", "runs MaskableEvalCallback and its callbacks"),
    "masked pictures": Behaviour("invalid_actions", "learns from pictures and Dicts with masks"),
    "distribution": Behaviour("distributions", "masks scale up what is left, and come off again"),
    "LSTMs": Behaviour("lstm", "learns with any arrangement of LSTMs, of every observation"),
    "actions of two axes": Behaviour("lstm", "recurrent policies take actions of two axes"),
    "memory": Behaviour("lstm", "remembers what it saw"),
    "no hidden layer": Behaviour("lstm", "takes a `net_arch` without a hidden layer"),
    "own extractor": Behaviour(
        "train_eval_mode", "takes an extractor of the user's own, with batch norm and dropout"
    ),
    "batch norm in targets": Behaviour(
        "train_eval_mode", "copies running statistics to target networks, whatever `tau`"
    ),
}


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


class OwnExtractor(BaseFeaturesExtractor):
    """Normalises a vector over the batch, and leaves half of it out.

    :param observation_space: of a vector
    """

    def __init__(self, observation_space: spaces.Box) -> None:
        dim = int(np.prod(observation_space.shape))
        super().__init__(observation_space, dim)
        self.norm = nn.BatchNorm1d(dim)
        self.layers = nn.Sequential(nn.Flatten(), self.norm, nn.Dropout(0.5))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Return the features, (B, dim)."""
        features: th.Tensor = self.layers(observations)
        return features


# More than one router, so that what is kept beside the weights is asked too.
ROUTERS = {"final": {"router": "top_k", "top_k": 2}, "big": {"num_experts": 2}}


def alias_of(algorithm: str, kind: str = "Mlp") -> str:
    """Return the name of an algorithm's policy for a kind of observations."""
    return f"Moe{kind}{'Lstm' if algorithm == 'RecurrentPPO' else ''}Policy"


def make(algorithm: str, placement: str, kind: str = "Mlp", env: Any = None, **kwargs: Any) -> Any:
    """Return a small model of a placement, as ``arena.make``.

    :param kind: of observations: ``"Mlp"``, ``"Cnn"``, ``"MultiInput"``
    """
    kwargs = {"net_arch": [8], **ROUTERS.get(placement, {}), **kwargs}
    if algorithm == "RecurrentPPO":
        kwargs.setdefault("lstm_hidden_size", 8)
    return arena.make(algorithm, alias_of(algorithm, kind), env, placement=placement, **kwargs)


def env_of(algorithm: str, space: spaces.Space[Any]) -> arena.Arena:
    """Return an environment that shows a space and takes the algorithm's actions."""
    return arena.Arena(space, arena.actions_of(algorithm))


def with_gsde(algorithm: str, placement: str, **kwargs: Any) -> Any:
    """Return a model with gSDE."""
    settings: dict[str, Any] = {"use_sde": True, "sde_sample_freq": 4}
    if algorithm == "TRPO":
        settings["sub_sampling_factor"] = 4
    if algorithm == "RecurrentPPO":
        settings["clip_range_vf"] = 0.1
    env = arena.Arena(arena.FLAT, arena.BOX)
    return make(algorithm, placement, env=env, model=settings, **kwargs)


EXCEPTIONS = [
    Exception_(
        "gSDE",
        "big",
        "gSDE needs the layer before the action, and each expert has its own",
        r"`use_sde`=True needs the latent .* `placement`='big'",
        {name: partial(with_gsde, name, "big") for name in WITH_GSDE},
    ),
    Exception_(
        "no hidden layer",
        "middle",
        "it replaces the last hidden layer, and there is none: take `final` or `big`",
        "`placement`='middle' replaces the last hidden layer, and `net_arch` has none",
        {name: partial(make, name, "middle", net_arch=[]) for name in EVERY},
    ),
    Exception_(
        "own extractor",
        "big",
        "its experts encode what is observed themselves; an LSTM's stand behind it and can",
        "`features_extractor_class`",
        {
            name: partial(make, name, "big", features_extractor_class=OwnExtractor)
            for name in EVERY
            if name != "RecurrentPPO"
        },
    ),
    Exception_(
        "batch norm in targets",
        "big",
        "its experts encode what is observed themselves",
        "`features_extractor_class`",
        {
            name: partial(make, name, "big", features_extractor_class=OwnExtractor)
            for name in ("QRDQN", "TQC")
        },
    ),
]


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
        ("algorithm", "placement", *options),
        list(_parameters(algorithms, keeping(behaviour), list(options.values()))),
    )


def _parameters(
    algorithms: Sequence[str], placements: Sequence[str], options: Sequence[Mapping[str, Any]]
) -> Iterator[Any]:
    choices = list(product(*(each.items() for each in options)))
    for i, algorithm in enumerate(algorithms):
        for j, placement in enumerate(placements):
            for k, chosen in enumerate(choices):
                yield pytest.param(
                    algorithm,
                    placement,
                    *(value for _, value in chosen),
                    id="-".join([algorithm, placement, *(str(word) for word, _ in chosen)]),
                    marks=[] if k == (i + j) % len(choices) else pytest.mark.full,
                )
