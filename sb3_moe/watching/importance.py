"""What an agent's returns become with each expert off.

Shapes: N tasks, n episodes, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.layers.checks import whole
from sb3_moe.measures.statistics import Estimate, bootstrap_interval, decimals
from sb3_moe.networks import kind_of
from sb3_moe.policies.of_model import policy_of
from sb3_moe.saving.generators import preserved_generators
from sb3_moe.vec_env.evaluating import LONGEST, evaluate_tasks
from sb3_moe.watching.interventions import mixtures_of, when_off, without_expert
from sb3_moe.watching.stage import seed_generators, stage_for

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """Returns of every task, as the agent is and with each expert of a tower off.

    :param tower: the tower
    :param task_names: of the columns
    :param when_off: what switching off means there
    :param returns: (E + 1, N, n); the first row is the agent as it is
    """

    tower: str
    task_names: list[str]
    when_off: str
    returns: Array

    @property
    def rows(self) -> list[str]:
        """Name the rows."""
        return ["all experts"] + [f"without {k}" for k in range(len(self.returns) - 1)]

    def estimate(self, row: int, task: int) -> Estimate:
        """Return a mean and its 95% bootstrap interval over episodes."""
        returns_n = self.returns[row, task]
        return Estimate(float(returns_n.mean()), *bootstrap_interval(returns_n))

    def cells(self) -> list[list[str]]:
        """Return the table as text, a row for each of :attr:`rows`."""
        num_rows, num_tasks, _ = self.returns.shape
        digits_N = [decimals(self.returns[:, task].mean(-1)) for task in range(num_tasks)]
        return [
            [
                "{0:.{3}f} [{1:.{3}f}, {2:.{3}f}]".format(*self.estimate(row, task), digits)
                for task, digits in enumerate(digits_N)
            ]
            for row in range(num_rows)
        ]

    def to_markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [["", *self.task_names], ["---"] * (1 + len(self.task_names))]
        lines += [[name, *cells] for name, cells in zip(self.rows, self.cells(), strict=True)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def check_importance(model: BaseAlgorithm, tower: str | None, episodes: int) -> str:
    """Return the tower that is meant, before anything is played.

    :param model: as of :func:`expert_importance`, like the rest
    :raises TypeError: if the policy is not one of this package's, or ``episodes`` no int
    :raises ValueError: if there is no such tower, its mixtures have unequally many experts, or
        ``episodes`` is below 2
    """
    whole("episodes", episodes)
    if episodes < 2:
        raise ValueError(f"`episodes` must be at least 2 for an interval, got {episodes}")
    if tower is None:
        return _default_tower(model)
    sizes = _sizes(model, tower)
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"`tower` must name one mixture where they have unequally many experts, {sizes}, got "
            f"{tower!r}"
        )
    return tower


def _default_tower(model: BaseAlgorithm) -> str:
    """Return the tower that acts, or its first mixture where they have unequally many experts."""
    first = next(iter(policy_of(model).moe_layers()), "pi")
    tower = kind_of(first)
    return tower if len(set(_sizes(model, tower).values())) == 1 else first


def _sizes(model: BaseAlgorithm, tower: str) -> dict[str, int]:
    return {name: layer.num_experts for name, layer in mixtures_of(model, tower).items()}


def expert_importance(
    model: BaseAlgorithm,
    env: gym.Env[Any, Any] | VecEnv | str | None = None,
    *,
    tower: str | None = None,
    episodes: int = 20,
    seed: int = 0,
    deterministic: bool = True,
    max_episode_steps: int = LONGEST,
) -> Importance:
    """Evaluate every task with each expert of a tower off, from the same seed each time.

    :param model: of any algorithm, with one of this package's policies
    :param env: as of :func:`sb3_moe.watch`
    :param tower: as of :func:`sb3_moe.without_expert`; None: the one that acts, or its first
        mixture where they have unequally many experts
    :param episodes: of each task, at least 2
    :param seed: of the environments and the actions
    :param deterministic: as in ``predict``
    :param max_episode_steps: an episode that takes more is an error, or one without an end would
        be played for ever
    :raises TypeError: as of :func:`sb3_moe.without_expert`, or if a number is no int
    :raises ValueError: if there is no such tower, its mixtures have unequally many experts, an
        episode is too long, ``episodes`` is below 2 or ``max_episode_steps`` below 1
    """
    whole("max_episode_steps", max_episode_steps)
    tower = check_importance(model, tower, episodes)
    layers = list(mixtures_of(model, tower).values())
    num_experts = layers[0].num_experts  # as many as all the others have
    with preserved_generators(model.action_space.np_random):
        stage = stage_for(model, env, False, episodes)

        def play() -> Array:
            seed_generators(model, seed)
            stage.env.seed(seed)
            played = evaluate_tasks(
                model, stage.env, episodes, deterministic, max_episode_steps=max_episode_steps
            )
            return played.returns

        try:
            returns = [play()]
            for k in range(num_experts):
                with without_expert(model, tower, k):
                    returns.append(play())
        finally:
            stage.leave()
    notes = "; ".join(dict.fromkeys(map(when_off, layers)))
    return Importance(tower, stage.names, notes, np.stack(returns))
