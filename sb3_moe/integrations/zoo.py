"""Our policies in an unchanged rl-baselines3-zoo.

``--gym-packages sb3_moe_envs sb3_moe.integrations.zoo`` registers the policies' names. Where the
zoo is installed, it also changes the zoo's samplers, which replace all given ``policy_kwargs`` by
sampled ones: then they keep those that the zoo samples no value for, and sample the other options
of mixtures.
``python -m sb3_moe.integrations.zoo ppo`` prints the path of a file of hyperparameters for the
zoo's ``--conf-file``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sb3_moe.layers.classes import imported
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import DEFAULTS, per_network

if TYPE_CHECKING:
    from optuna import Trial

__all__ = ["hyperparameters"]

# Returns hyperparameters by name, as those of the zoo do.
Sampler = Callable[..., dict[str, Any]]

FOLDER = Path(__file__).parent / "hyperparameters"
#: Values among which a trial chooses, for each of these options that is not given.
CHOICES: dict[str, tuple[Any, ...]] = {
    "placement": ("middle", "all", "big"),
    "router": ("soft", "top_k"),
    "num_experts": (2, 4, 8),
}
# The name under which a trial keeps the given options, so that the zoo can rebuild its model.
GIVEN = "policy_kwargs"
CLASS = re.compile(r"<class '([\w.]+)\.(\w+)'>")


def hyperparameters(algorithm: str) -> Path:
    """Return the file of hyperparameters of an algorithm, for the zoo's ``--conf-file``.

    :param algorithm: as the zoo calls it, such as ``"ppo"``
    :raises ValueError: if there is none
    """
    known = sorted(each.stem for each in FOLDER.glob("*.yml"))
    if algorithm not in known:
        raise ValueError(f"`algorithm` must be among {known}, got {algorithm!r}")
    return FOLDER / f"{algorithm}.yml"


def extend_zoo() -> None:
    """Let the zoo's samplers and converters keep, and sample, the options of mixtures."""
    from rl_zoo3 import hyperparams_opt

    for name, sampler in hyperparams_opt.HYPERPARAMS_SAMPLER.items():
        hyperparams_opt.HYPERPARAMS_SAMPLER[name] = _sampler(name, sampler)
    for name, converter in hyperparams_opt.HYPERPARAMS_CONVERTER.items():
        hyperparams_opt.HYPERPARAMS_CONVERTER[name] = _converter(converter)


def _sampler(algorithm: str, inner: Sampler) -> Sampler:
    """Return a sampler of the zoo's hyperparameters that samples the mixture's options too."""
    from rl_zoo3 import ALGOS

    def sample(trial: Trial, *args: Any, **kwargs: Any) -> dict[str, Any]:
        sampled = inner(trial, *args, **kwargs)
        run = trial.study.user_attrs
        policy = class_of(run["policy"]) or ALGOS[algorithm].policy_aliases.get(run["policy"])
        if not (isinstance(policy, type) and issubclass(policy, MoEPolicy)):
            return sampled
        text = trial.suggest_categorical(GIVEN, [run.get("policy_kwargs", "{}")])
        given = read_kwargs(text)
        ours = sample_options(trial, policy, given, use_sde=run.get("use_sde") == "True")
        return join(sampled, given, ours)

    return sample


def _converter(inner: Sampler) -> Sampler:
    """Return a function that turns the parameters that a trial keeps into hyperparameters."""

    def convert(sampled: dict[str, Any]) -> dict[str, Any]:
        if GIVEN not in sampled:
            return inner(sampled)
        rest = dict(sampled)
        given = read_kwargs(rest.pop(GIVEN))
        ours = {name: rest.pop(name) for name in CHOICES if name in rest}
        return join(inner(rest), given, ours)

    return convert


def sample_options(
    trial: Trial, policy: type[MoEPolicy], given: Mapping[str, Any], use_sde: bool = False
) -> dict[str, Any]:
    """Sample the options of a mixture that are not given, among values that fit the given ones.

    :param trial: of optuna
    :param policy: class of the policy
    :param given: the run's ``policy_kwargs``
    :param use_sde: whether the algorithm explores with gSDE, which needs a head outside the experts
    :return: the sampled options, for ``policy_kwargs``
    :raises ValueError: if the given options contradict each other
    """
    options = {name: value for name, value in given.items() if name in DEFAULTS}
    networks = per_network(options, policy.network_names).values()
    if not any(each.place.has_experts for each in networks):
        return {}
    by_task = any(each.router_class.needs_tasks for each in networks)
    # gSDE needs the head outside the experts, a features extractor of one's own the encoder.
    outside = use_sde or "features_extractor_class" in given
    sampled = {}
    for name, values in CHOICES.items():
        if name in given or (name == "num_experts" and by_task):
            continue
        valid = [v for v in values if _is_valid(policy, {**options, name: v}, outside)]
        if valid:
            sampled[name] = trial.suggest_categorical(name, valid)
    return sampled


def _is_valid(policy: type[MoEPolicy], options: Mapping[str, Any], outside: bool) -> bool:
    try:
        networks = per_network(options, policy.network_names).values()
    except ValueError:
        return False
    return not (outside and any(each.place.whole for each in networks))


def join(
    sampled: Mapping[str, Any], given: Mapping[str, Any], ours: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a trial's hyperparameters with the ``policy_kwargs`` that the zoo would drop.

    :param sampled: by the zoo; its ``policy_kwargs`` replace given ones of the same name
    :param given: ``policy_kwargs`` of the run
    :param ours: the sampled options of the mixture
    """
    of_zoo = dict(sampled.get("policy_kwargs", {}))
    if given.get("tokens", "sample") != "sample":
        # Tokens of a feature map need a single hidden layer; the zoo samples more.
        of_zoo.pop("net_arch", None)
    return {**sampled, "policy_kwargs": {**given, **of_zoo, **ours}}


def read_kwargs(text: str) -> dict[str, Any]:
    """Read ``policy_kwargs`` back from the text of a dict, which is all that the zoo keeps of them.

    :param text: as ``str`` writes a dict of plain values and classes
    :raises ValueError: if the dict holds anything else
    """
    try:
        found = ast.literal_eval(CLASS.sub(r'"\g<0>"', text))
    except (ValueError, SyntaxError) as error:
        raise ValueError(
            f"`policy_kwargs` must hold only plain values and classes for the zoo, got {text}"
        ) from error
    return dict(_with_classes(found))


def _with_classes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_classes(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_classes(each) for each in value)
    return class_of(str(value)) or value


def class_of(text: str) -> Any:
    """Return the class that a text names in the form of ``str``, or None if it names none.

    :param text: such as ``"<class 'torch.nn.modules.activation.ReLU'>"``
    """
    named = CLASS.fullmatch(text)
    return named and imported(f"{named[1]}:{named[2]}", "policy_kwargs")


if __name__ == "__main__":
    print(hyperparameters(*sys.argv[1:]))
elif find_spec("rl_zoo3") is not None:
    extend_zoo()
