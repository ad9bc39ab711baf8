"""Which placements can't do what the tests of SB3 and sb3-contrib ask of a policy.

``docs/contributing/compatibility.md`` says the same in words.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple, TypeVar

import models
import pytest
from covering import covering

T = TypeVar("T")


class Cannot(NamedTuple):
    """What a placement can't do.

    :param behavior: as tests name it in :func:`over`
    :param placement: who can't
    :param error: a pattern of what it says
    :param attempts: what is refused, by name
    :param kind: of the error
    """

    behavior: str
    placement: str
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
CANNOT = (
    Cannot(
        "critic",
        "none",
        "missing 3 required positional arguments: 'net_arch', 'features_extractor'",
        {name: partial(load_a_dense_critic, name) for name in ("SAC", "TD3")},
        TypeError,
    ),
    Cannot(
        "no hidden layer",
        "middle",
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
        r"`use_sde`=True needs the latent of the actor's last layer, .* `placement`='big'",
        {name: partial(models.with_gsde, name, "big") for name in models.WITH_GSDE},
    ),
    Cannot(
        "own extractor",
        "big",
        r"`placement`='big' holds the encoder inside each expert, .* got Whitening",
        attempts(ENCODING, "big", features_extractor_class=models.Whitening),
    ),
    Cannot(
        "HER of images",
        "big",
        r"`placement`='big' takes one image key, got \['achieved_goal', 'desired_goal', 'observ",
        {name: partial(with_images_of_goals, name) for name in ("DQN", "SAC")},
    ),
    Cannot(
        "features_dim",
        "big",
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

    :param behavior: what the test is about
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
