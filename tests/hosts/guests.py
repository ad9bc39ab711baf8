"""What SB3's own tests ask of a policy, asked of ours: behaviours, placements, and who can't what.

``docs/guests.md`` shows the table; ``test_sb3_table.py`` holds the two together.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import arena
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.torch_layers import FlattenExtractor

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
    "features_dim": Behaviour(
        "cnn", "puts a linear layer of `features_dim` behind its encoder (`cnn_output_dim` too)"
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

def attempts(
    algorithms: Sequence[str], placement: str, **kwargs: Any
) -> dict[str, Callable[[], object]]:
    """Return, by name, what is refused: a model of each algorithm."""
    return {name: partial(make, name, placement, **kwargs) for name in algorithms}


def _with_gsde(name: str, actions: spaces.Space[Any] = arena.BOX) -> Callable[[], object]:
    env = arena.Arena(arena.FLAT, actions)
    return partial(make, name, "big", env=env, model={"use_sde": True})


def _with_pictures_of_goals(name: str) -> Callable[[], object]:
    env = bits(pictures=True, discrete=name == "DQN")
    return partial(make, name, "big", "MoeMultiInputPolicy", env)


class OwnExtractor(FlattenExtractor):
    """A features extractor that is neither SB3's nor ours."""


def _load_a_dense_critic(name: str) -> object:
    critic = make(name, "none").policy.critic
    file = io.BytesIO()
    critic.save(file)
    file.seek(0)
    return type(critic).load(file)


NO_LATENT = (
    "gSDE makes its noise from what the actor's last hidden layer gives, and each expert has its own: "
    "name another placement for `pi`, as in `placement=dict(pi=\"body\", qf=\"big\")`"
)
GSDE_ERROR = r"`use_sde`=True needs the latent of the actor's last layer, .* `placement`='big'"
NO_EXTRACTOR = (
    "its experts hold the encoder, so there is no place for one before them: name an `encoder`"
)
EXTRACTOR_ERROR = r"`placement`='big' holds the encoder inside each expert, .* got OwnExtractor"
EXCEPTIONS = (
    Exception_(
        "critic",
        "none",
        "dense critics are SB3's own, which doesn't write down what they were built with",
        "missing 3 required positional arguments: 'net_arch', 'features_extractor'",
        {name: partial(_load_a_dense_critic, name) for name in WITH_ACTOR},
        TypeError,
    ),
    Exception_(
        "no hidden layer",
        "middle",
        "it replaces the last hidden layer, and there is none: take `final` or `big`",
        "`placement`='middle' replaces the last hidden layer, and `net_arch` has none",
        {
            **attempts(EVERY, "middle", net_arch=[]),
            **{
                f"{name} in one tower": partial(make, name, "middle", net_arch=net_arch)
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
        Exception_(behaviour, "big", NO_LATENT, GSDE_ERROR, {n: _with_gsde(n, a) for n in names})
        for behaviour, names, a in (
            ("policy with gSDE", ("A2C", "PPO", "SAC"), arena.BOX),
            ("gSDE of many", ("SAC",), spaces.Box(-1, 1, (2, 2), np.float32)),
            ("gSDE", ("A2C", "PPO", "SAC"), arena.BOX),
        )
    ),
    *(
        Exception_(
            behaviour,
            "big",
            NO_EXTRACTOR,
            EXTRACTOR_ERROR,
            attempts(algorithms, "big", features_extractor_class=OwnExtractor),
        )
        for behaviour, algorithms in (
            ("own extractor", EVERY),
            ("batch norm in targets", OFF_POLICY),
        )
    ),
    Exception_(
        "HER of pictures",
        "big",
        "its experts encode one picture each, and goals are pictures too: `encoder=\"flat\"` takes all",
        r"`placement`='big' takes one image key, got \['achieved_goal', 'desired_goal', 'observ",
        {name: _with_pictures_of_goals(name) for name in OFF_POLICY},
    ),
    Exception_(
        "features_dim",
        "big",
        "its experts take the map itself: give that width as the first of `net_arch`",
        r"`features_dim`=16 adds a layer .* takes the map: give it as the first of `net_arch`",
        attempts(
            EVERY, "big", alias="MoeCnnPolicy", features_extractor_kwargs={"features_dim": 16}
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
YES, NO = "yes", "no"


def table() -> str:
    """Return the two tables of ``docs/guests.md``."""
    lines = ["| SB3's tests | a policy | " + " | ".join(PLACEMENTS) + " | why not |"]
    lines.append("|---|---|" + "---|" * len(PLACEMENTS) + "---|")
    for key, row in BEHAVIOURS.items():
        kept = keeping(key)
        answers = [YES if placement in kept else NO for placement in PLACEMENTS]
        why = "; ".join(e.reason for e in EXCEPTIONS if e.behaviour == key)
        lines.append(f"| `{row.file}` | {row.text} | " + " | ".join(answers) + f" | {why} |")
    lines += ["", "| SB3's tests | SB3's policies | ours, `none` too |", "|---|---|---|"]
    lines += [f"| `{d.file}` | {d.theirs} | {d.ours} |" for d in DIFFERENCES.values()]
    return "\n".join(lines)
