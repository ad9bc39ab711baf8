"""The zoo's samplers, for policies with experts.

A trial of the zoo replaces all ``policy_kwargs`` by those that it samples: a mixture that a file
asks for would be lost, silently.
"""

# ruff: noqa: E402  what is missing is said before it is imported

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sb3_moe.extras import require

require("sb3_moe.zoo.samplers", "rl_zoo3", "optuna")

from rl_zoo3 import ALGOS
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.zoo.given import class_of, read_kwargs
from sb3_moe.zoo.options import CHOICES, join, sample_options

if TYPE_CHECKING:
    from optuna import Trial

# The name under which a trial keeps what was given, so that the zoo can build its model again.
GIVEN = "policy_kwargs"


def teach() -> None:
    """Let the zoo's samplers and converters keep, and sample, the options of mixtures."""
    for algorithm, sampler in HYPERPARAMS_SAMPLER.items():
        if not isinstance(sampler, Sampler):
            HYPERPARAMS_SAMPLER[algorithm] = Sampler(algorithm, sampler)
    for algorithm, converter in HYPERPARAMS_CONVERTER.items():
        if not isinstance(converter, Converter):
            HYPERPARAMS_CONVERTER[algorithm] = Converter(converter)


class Sampler:
    """What samples a trial's hyperparameters.

    :param algorithm: as the zoo calls it
    :param zoos: the zoo's own sampler
    """

    def __init__(self, algorithm: str, zoos: Callable[..., dict[str, Any]]) -> None:
        self._algorithm, self._zoos = algorithm, zoos

    def __call__(
        self, trial: Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
    ) -> dict[str, Any]:
        """Sample, from where the zoo has written down what the run was given."""
        sampled = self._zoos(trial, n_actions, n_envs, additional_args)
        run = trial.study.user_attrs
        policy = self._policy(run["policy"])
        if policy is None:
            return sampled
        text = trial.suggest_categorical(GIVEN, [run.get("policy_kwargs", "{}")])
        given = read_kwargs(text)
        ours = sample_options(trial, policy, given, use_sde=run.get("use_sde") == "True")
        return join(sampled, given, ours)

    def _policy(self, named: str) -> type[MoEPolicy] | None:
        """Find the class that the run's ``policy`` names, if it is one with experts."""
        found = class_of(named) or ALGOS[self._algorithm].policy_aliases.get(named)
        return found if isinstance(found, type) and issubclass(found, MoEPolicy) else None


class Converter:
    """What makes hyperparameters of the parameters that a trial keeps.

    :param zoos: the zoo's own converter
    """

    def __init__(self, zoos: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._zoos = zoos

    def __call__(self, sampled: dict[str, Any]) -> dict[str, Any]:
        """Convert what the zoo has sampled with its own converter, and join ours to it."""
        if GIVEN not in sampled:
            return self._zoos(sampled)
        rest = {n: v for n, v in sampled.items() if n != GIVEN and n not in CHOICES}
        ours = {name: value for name, value in sampled.items() if name in CHOICES}
        return join(self._zoos(rest), read_kwargs(sampled[GIVEN]), ours)
