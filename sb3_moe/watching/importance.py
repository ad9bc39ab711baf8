"""An agent's returns with each expert switched off in turn.

Shapes: N tasks, n episodes, E experts.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.measures.statistics import Estimate, bootstrap_interval, decimals
from sb3_moe.policies.networks import kind_of
from sb3_moe.policies.of_model import policy_of
from sb3_moe.vec_env.evaluating import LONGEST, evaluate_tasks
from sb3_moe.watching.interventions import when_off, without_expert
from sb3_moe.watching.watched_env import seed_everything, watched_env

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """Returns of every task: of the whole agent, and without each expert of one network.

    :param network: its name
    :param task_names: of the columns
    :param when_off: what switching an expert off means in this network
    :param returns: (E + 1, N, n); the first row is the agent as it is
    """

    network: str
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
        text = "{0:.{3}f} [{1:.{3}f}, {2:.{3}f}]"
        return [
            [text.format(*self.estimate(row, k), digits) for k, digits in enumerate(digits_N)]
            for row in range(num_rows)
        ]

    def to_markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [["", *self.task_names], ["---"] * (1 + len(self.task_names))]
        lines += [[name, *cells] for name, cells in zip(self.rows, self.cells(), strict=True)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def first_network_with_experts(model: BaseAlgorithm) -> str:
    """Return the name of the first network with experts: the one that acts, if it has any.

    :param model: of any algorithm, with one of this package's policies
    :raises TypeError: if the policy is not one of this package's
    :raises ValueError: if the policy has no experts
    """
    policy = policy_of(model)
    network = kind_of(next(iter(policy.moe_layers()), "pi"))
    policy.mixtures(network)
    return network


def expert_importance(
    model: BaseAlgorithm,
    env: gym.Env[Any, Any] | VecEnv | str | None = None,
    *,
    network: str | None = None,
    episodes: int = 20,
    seed: int = 0,
    deterministic: bool = True,
    max_episode_steps: int = LONGEST,
) -> Importance:
    """Evaluate every task with each expert of a network off, from the same seed each time.

    :param model: of any algorithm, with one of this package's policies
    :param env: as in :func:`sb3_moe.watch`
    :param network: as in :func:`sb3_moe.without_expert`; None: the first with experts, which is
        the one that acts if it has any
    :param episodes: of each task; intervals need at least 2
    :param seed: of the environments and the actions
    :param deterministic: as in ``predict``
    :param max_episode_steps: a longer episode raises an error, since one without an end would be
        played for ever
    :raises TypeError: as in :func:`sb3_moe.without_expert`, or if a number is no int
    :raises ValueError: if there is no such network, an episode is too long, or a number is below 1
    """
    network = network or first_network_with_experts(model)
    layers = list(policy_of(model).mixtures(network).values())
    with watched_env(model, env, False, episodes) as watched:

        def play() -> Array:
            seed_everything(model, watched.env, seed)
            limit = {"max_episode_steps": max_episode_steps}
            return evaluate_tasks(model, watched.env, episodes, deterministic, **limit).returns

        returns = [play()]
        for k in range(layers[0].num_experts):  # all these layers have as many
            with without_expert(model, network, k):
                returns.append(play())
    notes = "; ".join(dict.fromkeys(map(when_off, layers)))
    return Importance(network, watched.names, notes, np.stack(returns))
