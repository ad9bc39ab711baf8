"""Speed of training with experts, beside dense policies of as many parameters.

Each case trains four models side by side, a rollout at a time: the ``mixture``; ``dense``, SB3's
own policy with the mixture's optimizer, fused Adam; ``stock``, the same with SB3's optimizer; and
``none``, our policy without experts. ``benchmarks.before`` trains them with two codes in turns, so
everything here must run with the older one too.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from torch import nn

import sb3_moe
from benchmarks.timing import Race, bounded, clock_on, quartiles, ratios
from sb3_moe import presets

MIDDLE = {"placement": "middle", "router": "soft", "num_experts": 8}
BIG = {"placement": "big", "router": "soft", "num_experts": 4}
TASK = {"placement": "big", "router": "task"}
# PureJaxRL's settings with a quarter of its rollout: turns are shorter, and ratios stay the same.
MINATAR = {k: v for k, v in presets.MINATAR_PPO.items() if k != "policy_kwargs"} | {"n_steps": 32}
MINATAR_POLICY = {"net_arch": [64, 64], "activation_fn": nn.ReLU}
# A column of the table is one model's speed over that of another.
COLUMNS = (("mixture", "dense"), ("mixture", "stock"), ("mixture", "none"), ("none", "dense"))


class Case(NamedTuple):
    """What is trained, and the speed that the mixture should reach.

    :param algorithm: its class
    :param policy: SB3's name of the policy; ours has "Moe" before it
    :param env: makes the environment
    :param options: of the mixture
    :param steps: environment steps of a turn
    :param at_least: target: the mixture's speed over the dense model's
    :param arguments: of the algorithm
    :param policy_kwargs: of all four policies
    """

    algorithm: type[BaseAlgorithm]
    policy: str
    env: Callable[[], Any]
    options: Mapping[str, Any]
    steps: int
    at_least: float
    arguments: Mapping[str, Any]
    policy_kwargs: Mapping[str, Any] = {}

    def model(self, prefix: str, device: str, **policy_kwargs: Any) -> BaseAlgorithm:
        """Return a model of SB3's policy, or of ours with the prefix "Moe"."""
        flat = {"features_extractor_kwargs": {"encoder": "flat"}} if prefix else {}
        return self.algorithm(
            prefix + self.policy,
            self.env(),
            policy_kwargs={**self.policy_kwargs, **flat, **policy_kwargs},
            seed=0,
            device=device,
            **self.arguments,
        )

    def models(self, device: str = "cpu") -> dict[str, BaseAlgorithm]:
        """Return the models that train side by side, by name."""
        mixture = self.model("Moe", device, **self.options)
        width = self.matching_width(num_parameters(mixture))
        dense: dict[str, Any] = {"net_arch": [width, width]}
        fused: dict[str, Any] = dense | {"optimizer_kwargs": {"fused": True}}
        return {
            "mixture": mixture,
            "dense": self.model("", device, **fused),
            "stock": self.model("", device, **dense),
            "none": self.model("Moe", device, placement="none", **fused),
        }

    def matching_width(self, parameters: int) -> int:
        """Return the width of two layers with which SB3's policy has about as many parameters."""
        # The number is a quadratic function of the width, which three small networks determine.
        widths = [1, 2, 3]
        counts = [num_parameters(self.model("", "cpu", net_arch=[w, w])) for w in widths]
        square, linear, constant = np.polyfit(widths, counts, 2)
        return round(max(np.roots([square, linear, constant - parameters]).real))


def num_parameters(model: BaseAlgorithm) -> int:
    return sum(p.numel() for p in model.policy.parameters())


def pendulum() -> Any:
    return make_vec_env("Pendulum-v1", seed=0)


def cartpole(n_envs: int = 1) -> Any:
    return make_vec_env("CartPole-v1", n_envs, seed=0)


def breakout() -> Any:
    game = "sb3_moe_envs:SB3MoE/MinAtar-Breakout-v1"
    return sb3_moe.make_multitask_vec_env([game], 64, seed=0, task_id="none")


def three_games() -> Any:
    return sb3_moe.make_multitask_vec_env("MinAtar/MTRL3", 64, seed=0)


ONE = Case(PPO, "MlpPolicy", breakout, MIDDLE, 2048, 0.84, MINATAR, MINATAR_POLICY)
THREE = ONE._replace(policy="MultiInputPolicy", env=three_games)
SHORT, AT_ONCE = {"n_steps": 64, "batch_size": 256}, {"learning_starts": 0}
CASES = {
    "PPO, CartPole": Case(PPO, "MlpPolicy", partial(cartpole, 8), MIDDLE, 512, 0.92, SHORT),
    "PPO, MinAtar": ONE,
    "PPO, MinAtar, big": ONE._replace(options=BIG, at_least=0.95),
    "PPO, three games, big": THREE._replace(options=BIG, at_least=0.95),
    "PPO, three games, big, task": THREE._replace(options=TASK, at_least=1.3),
    "DQN, CartPole": Case(DQN, "MlpPolicy", cartpole, MIDDLE, 250, 0.86, AT_ONCE),
    "SAC, Pendulum": Case(SAC, "MlpPolicy", pendulum, MIDDLE, 4, 0.96, AT_ONCE),
}
# Targets for the mixture's speed over the stock policy's, by case.
OF_STOCK = {"PPO, CartPole": 0.94}


def run(device: str = "cpu", rounds: int = 15) -> list[dict[str, Any]]:
    """Return a row for each case and column.

    :param device: where the policies are
    :param rounds: interleaved turns of each model
    """
    return [row for name in CASES for row in rows(name, race(name, device).rounds(rounds))]


def race(name: str, device: str = "cpu") -> Race:
    """Return the race of a case's models."""
    case = CASES[name]
    turns = {key: turn(model, case.steps) for key, model in case.models(device).items()}
    return Race(turns, slice_s=0.0, warmups=1, clock=clock_on(device))


def turn(model: BaseAlgorithm, steps: int) -> Callable[[], object]:
    return lambda: model.learn(steps, reset_num_timesteps=False)


def speeds(seconds: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Return one model's speed over another's in each round, by column."""
    return {f"{a} / {b}": ratios(seconds[b], seconds[a]) for a, b in COLUMNS}


def columns(name: str, seconds: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Return the columns in which two codes are compared: the speeds, and steps per second."""
    steps_per_s = [CASES[name].steps / each for each in seconds["mixture"]]
    return speeds(seconds) | {"mixture, steps/s": steps_per_s}


def bound(name: str, column: str) -> float | None:
    """Return the target of a case's column, if it has one."""
    bounds = {"mixture / dense": CASES[name].at_least, "none / dense": 1.0}
    return (bounds | {"mixture / stock": OF_STOCK.get(name)}).get(column)


def rows(name: str, seconds: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """Return a case's rows."""
    found = []
    for column, values in speeds(seconds).items():
        low, middle, high = quartiles(values)
        row = bounded(f"{name}: {column}", middle, bound(name, column))
        found.append(row | {"lower_quartile": low, "upper_quartile": high})
    return found
