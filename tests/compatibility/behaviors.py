"""What the tests of SB3 and sb3-contrib ask of a policy, and which placements of ours can't do it.

``docs/contributing/compatibility.md`` says the same in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple, TypeVar

import models
import pytest
from covering import covering

T = TypeVar("T")

# A word that tests name, the files of SB3's or sb3-contrib's tests, and what a policy does.
BEHAVIORS = {
    "settings": ("run, n_step_replay", "learns with every setting of its algorithm"),
    "critics": ("run", "has any number of critics, and QRDQN and TQC any number of quantiles"),
    "several environments": ("run", "learns off-policy from several environments"),
    "seed": ("deterministic", "does the same twice with the same seed"),
    "callbacks": ("callbacks", "runs SB3's callbacks, alone, listed and nested"),
    "identity": ("identity", "learns to say what it sees"),
    "HER": ("her", "learns with HER, and goes on from a file"),
    "HER of images": ("her", "learns with HER from images"),
    "model": ("save_load", "`save`, `load`, `set_env` and learn on: same weights, same actions"),
    "parameters": (
        "save_load",
        "`get_parameters`, `set_parameters`: whole, in part, and refused where wrong",
    ),
    "file": (
        "save_load",
        "leaves out, puts in and replaces what a file holds, in a path or an open file",
    ),
    "compiled": ("save_load", "saves and loads after `torch.compile`"),
    "coefficient": ("save_load", "keeps a learned or fixed entropy coefficient in a file"),
    "replay": ("save_load", "saves and loads its replay buffer"),
    "part": (
        "save_load",
        "a policy, an actor or a Q network saved alone stays what it was",
    ),
    "critic": ("save_load", "critics saved alone stay what they were"),
    "predict": ("predict", "predicts for one observation and for several"),
    "net_arch": ("custom_policy", "takes any number and width of hidden layers"),
    "no hidden layer": ("custom_policy, lstm", "takes a `net_arch` without a hidden layer"),
    "optimizer": ("custom_policy", "takes another optimizer and its arguments"),
    "one key": ("dict_env", "a Dict of one vector gives the policy of that vector"),
    "keys": ("dict_env", "takes a Dict of an image, a vector and a number, stacked or normalized"),
    "nested": ("dict_env", "refuses Dicts in Dicts as SB3 does"),
    "observations": ("spaces", "takes discrete and binary observations, and float64"),
    "actions": ("spaces", "takes every action space of its algorithm, refuses others"),
    "own extractor": ("train_eval_mode", "takes a features extractor of the user's own"),
    "batch norm in targets": (
        "train_eval_mode",
        "copies running statistics to target networks, whatever `tau`",
    ),
    "gSDE": ("sde", "learns with gSDE, and draws its noise anew"),
    "images": ("cnn", "encodes images, channels first or last; same actions from a file"),
    "features_dim": ("cnn", "puts a linear layer of `features_dim` behind its encoder"),
    "shared": ("cnn", "shares its features extractor or not, in target networks too"),
    "targets": ("cnn", "target networks follow by `tau`, and by nothing else"),
    "scaled": ("cnn", "takes scaled images with `normalize_images=False`"),
    "normalized": ("vec_normalize", "learns under VecNormalize, and changes it"),
    "stacked": ("vec_stacked_obs", "takes stacked vectors and images"),
    "masks": ("invalid_actions", "does nothing that is masked, whatever its actions"),
    "masks learned": ("invalid_actions", "learns with masks what it can't without"),
    "no masks": ("invalid_actions", "learns and is evaluated without masks, if told so"),
    "distribution": ("distributions", "masks scale up what is left, and come off again"),
    "LSTMs": ("lstm", "learns with any arrangement of LSTMs, of every observation"),
    "memory": ("lstm", "remembers what it saw"),
}


class Cannot(NamedTuple):
    """What a placement can't do.

    :param behavior: a key of ``BEHAVIORS``
    :param placement: who can't
    :param reason: why, for readers
    :param error: a pattern of what it says
    :param attempts: what is refused, by name
    :param kind: of the error
    """

    behavior: str
    placement: str
    reason: str
    error: str
    attempts: Mapping[str, Callable[[], object]]
    kind: type[Exception] = ValueError


def attempts(algorithms: Sequence[str], placement: str, **kwargs: Any) -> dict[str, Any]:
    """Return, by name, what is refused: a model of each algorithm."""
    return {name: partial(models.make, name, placement, **kwargs) for name in algorithms}


def load_a_dense_critic(name: str) -> object:
    """Load what SB3's own critic wrote of itself."""
    critic = models.make(name, "none").policy.critic
    return type(critic)(**critic._get_constructor_parameters())


def with_images_of_goals(name: str) -> object:
    """Build a model of goals that are images."""
    env = models.bits(images=True, discrete=name == "DQN")
    return models.make(name, "big", "MultiInput", env)


ENCODING = ("PPO", "DQN", "TQC")  # RecurrentPPO's experts stand behind the LSTM
NO_EXTRACTOR = (
    "its experts hold the encoder: name an `encoder` "
    "(RecurrentPPO, whose experts stand behind the LSTM, can)"
)
CANNOT = (
    Cannot(
        "critic",
        "none",
        "dense critics are SB3's own, which do not store their constructor's arguments",
        "missing 3 required positional arguments: 'net_arch', 'features_extractor'",
        {name: partial(load_a_dense_critic, name) for name in ("SAC", "TD3")},
        TypeError,
    ),
    Cannot(
        "no hidden layer",
        "middle",
        "it replaces the last hidden layer, and there is none: use `final` or `big`",
        "`placement`='middle' replaces the last hidden layer, and `net_arch` has none",
        {
            **attempts(models.EVERY, "middle", net_arch=[]),
            "A2C's actor": partial(models.make, "A2C", "middle", net_arch={"pi": [8]}),
            "SAC's actor": partial(models.make, "SAC", "middle", net_arch={"pi": [], "qf": [8]}),
        },
    ),
    Cannot(
        "gSDE",
        "big",
        "each expert has its own last hidden layer, from which gSDE makes noise: name another "
        'placement for `pi`, as in `placement=dict(pi="body", qf="big")`',
        r"`use_sde`=True needs the latent of the actor's last layer, .* `placement`='big'",
        {name: partial(models.with_gsde, name, "big") for name in models.WITH_GSDE},
    ),
    *(
        Cannot(
            behavior,
            "big",
            NO_EXTRACTOR,
            r"`placement`='big' holds the encoder inside each expert, .* got Whitening",
            attempts(algorithms, "big", features_extractor_class=models.Whitening),
        )
        for behavior, algorithms in (
            ("own extractor", ENCODING),
            ("batch norm in targets", ENCODING[1:]),
        )
    ),
    Cannot(
        "HER of images",
        "big",
        'its experts encode one image, and goals are images too: use `encoder="flat"`',
        r"`placement`='big' takes one image key, got \['achieved_goal', 'desired_goal', 'observ",
        {name: partial(with_images_of_goals, name) for name in ("DQN", "SAC")},
    ),
    Cannot(
        "features_dim",
        "big",
        "its experts take the feature map itself: give that width as the first of `net_arch`",
        r"`features_dim`=16 adds a layer .* takes the map: give it as the first of `net_arch`",
        attempts(ENCODING, "big", kind="Cnn", features_extractor_kwargs={"features_dim": 16}),
    ),
)


def keeping(behavior: str) -> list[str]:
    """Return the placements that a behavior is asked of: all except the exceptions."""
    cannot = {each.placement for each in CANNOT if each.behavior == behavior}
    return [placement for placement in models.PLACEMENTS if placement not in cannot]


def over(
    behavior: str,
    algorithms: Sequence[str] = models.EVERY,
    fits: Callable[..., bool] = lambda *_: True,
    **options: Any,
) -> Callable[[T], T]:
    """Parametrize a test over algorithms, the placements that keep a behavior, and options.

    ``make test`` meets each placement, family of algorithms and option once; the rest of the
    product is marked ``full``.

    :param behavior: a key of ``BEHAVIORS``
    :param algorithms: the test's ``algorithm``
    :param fits: says of an algorithm and values of the options whether they go together
    :param options: further arguments of the test, each a dict from a word to a value, or values
    """
    named = [
        each if isinstance(each, dict) else {str(value): value for value in each}
        for each in options.values()
    ]
    cases: dict[str, dict[str, object]] = {}
    values = {}
    for algorithm, placement, *words in product(algorithms, keeping(behavior), *named):
        chosen = [of[word] for of, word in zip(named, words, strict=True)]
        if fits(algorithm, *chosen):
            case = "-".join([algorithm, placement, *words])
            family = {"placement": placement, "family": models.family_of(algorithm)}
            cases[f"{behavior} {case}"] = {**family, **dict(zip(options, words, strict=True))}
            values[f"{behavior} {case}"] = (case, algorithm, placement, *chosen)
    kept = covering(cases)
    parameters = [
        pytest.param(*given, id=case, marks=[] if key in kept else [pytest.mark.full])
        for key, (case, *given) in values.items()
    ]
    return pytest.mark.parametrize(("algorithm", "placement", *options), parameters)
