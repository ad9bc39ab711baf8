"""What a placement of ours can't do that SB3's tests ask, why, and in which words it says so."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import arena
import guests
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from tables import Cannot


def attempts(
    algorithms: Sequence[str], placement: str, **kwargs: Any
) -> dict[str, Callable[[], object]]:
    """Return, by name, what is refused: a model of each algorithm."""
    return {name: partial(guests.make, name, placement, **kwargs) for name in algorithms}


def _with_gsde(name: str, actions: spaces.Space[Any] = arena.BOX) -> Callable[[], object]:
    env = arena.Arena(arena.FLAT, actions)
    return partial(guests.make, name, "big", env=env, model={"use_sde": True})


def _with_pictures_of_goals(name: str) -> Callable[[], object]:
    env = guests.bits(pictures=True, discrete=name == "DQN")
    return partial(guests.make, name, "big", "MoeMultiInputPolicy", env)


class OwnExtractor(FlattenExtractor):
    """A features extractor that is neither SB3's nor ours."""


def _load_a_dense_critic(name: str) -> object:
    critic = guests.make(name, "none").policy.critic
    file = io.BytesIO()
    critic.save(file)
    file.seek(0)
    return type(critic).load(file)


NO_LATENT = (
    "gSDE makes noise of what the actor's last hidden layer gives, and each expert has its own: "
    'name another placement for `pi`, as in `placement=dict(pi="body", qf="big")`'
)
GSDE_ERROR = r"`use_sde`=True needs the latent of the actor's last layer, .* `placement`='big'"
NO_EXTRACTOR = (
    "its experts hold the encoder, so there is no place for one before them: name an `encoder`"
)
EXTRACTOR_ERROR = r"`placement`='big' holds the encoder inside each expert, .* got OwnExtractor"
CANNOT = (
    Cannot(
        "critic",
        "none",
        "dense critics are SB3's own, which doesn't write down what they were built with",
        "missing 3 required positional arguments: 'net_arch', 'features_extractor'",
        {name: partial(_load_a_dense_critic, name) for name in guests.WITH_ACTOR},
        TypeError,
    ),
    Cannot(
        "no hidden layer",
        "middle",
        "it replaces the last hidden layer, and there is none: take `final` or `big`",
        "`placement`='middle' replaces the last hidden layer, and `net_arch` has none",
        {
            **attempts(guests.EVERY, "middle", net_arch=[]),
            **{
                f"{name} in one tower": partial(guests.make, name, "middle", net_arch=net_arch)
                for name, net_arch in (
                    ("A2C", {"pi": [8]}),
                    ("PPO", {"vf": [8]}),
                    ("SAC", {"pi": [], "qf": [8]}),
                    ("TD3", {"pi": [8], "qf": []}),
                )
            },
        },
    ),
    *(
        Cannot(behaviour, "big", NO_LATENT, GSDE_ERROR, {n: _with_gsde(n, a) for n in names})
        for behaviour, names, a in (
            ("policy with gSDE", ("A2C", "PPO", "SAC"), arena.BOX),
            ("gSDE of many", ("SAC",), spaces.Box(-1, 1, (2, 2), np.float32)),
            ("gSDE", ("A2C", "PPO", "SAC"), arena.BOX),
        )
    ),
    *(
        Cannot(
            behaviour,
            "big",
            NO_EXTRACTOR,
            EXTRACTOR_ERROR,
            attempts(algorithms, "big", features_extractor_class=OwnExtractor),
        )
        for behaviour, algorithms in (
            ("own extractor", guests.EVERY),
            ("batch norm in targets", guests.OFF_POLICY),
        )
    ),
    Cannot(
        "HER of pictures",
        "big",
        'its experts encode one picture, and goals are pictures too: `encoder="flat"` takes all',
        r"`placement`='big' takes one image key, got \['achieved_goal', 'desired_goal', 'observ",
        {name: _with_pictures_of_goals(name) for name in guests.OFF_POLICY},
    ),
    Cannot(
        "features_dim",
        "big",
        "its experts take the map itself: give that width as the first of `net_arch`",
        r"`features_dim`=16 adds a layer .* takes the map: give it as the first of `net_arch`",
        attempts(
            guests.EVERY,
            "big",
            alias="MoeCnnPolicy",
            features_extractor_kwargs={"features_dim": 16},
        ),
    ),
)


class Difference(NamedTuple):
    """What all of our policies do otherwise than SB3's, ``none`` too.

    :param file: of SB3's tests that ask for it
    :param theirs: what SB3's do
    :param ours: what ours do, and why
    """

    file: str
    theirs: str
    ours: str


DIFFERENCES = {
    "flattens": Difference(
        "dict_env",
        "`MlpPolicy` refuses a Dict",
        "`MoeMlpPolicy` flattens it and still finds the task id in it",
    ),
    "takes scaled": Difference(
        "cnn",
        "`CnnPolicy` refuses pictures other than bytes up to 255 unless `normalize_images=False`",
        "`MoeCnnPolicy` takes them as they are, as MinAtar's are",
    ),
    "gives no advice": Difference(
        "run",
        "A2C and PPO warn of a GPU where the policy's class is called `ActorCriticPolicy`",
        "they don't: the class has another name",
    ),
}
