"""An agent's returns with each expert switched off in turn.

Shapes: N tasks, n episodes, E experts.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv

from sb3_moe.measures.statistics import decimals
from sb3_moe.policies.networks import kind_of
from sb3_moe.policies.of_model import policy_of
from sb3_moe.vec_env.evaluating import evaluate_tasks
from sb3_moe.watching.interventions import without_expert
from sb3_moe.watching.watched_env import seed_everything, watched_env

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """Returns of every task: of the whole agent, and without each expert of one network.

    :param network: its name
    :param task_names: of the columns
    :param returns: (E + 1, N, n); the first row is the agent as it is
    """

    network: str
    task_names: list[str]
    returns: Array

    @property
    def rows(self) -> list[str]:
        """Name the rows."""
        return ["all experts"] + [f"without {k}" for k in range(len(self.returns) - 1)]

    def cells(self) -> list[list[str]]:
        """Return mean and standard deviation over episodes as text, for each of :attr:`rows`."""
        means = self.returns.mean(-1)
        deviations = self.returns.std(-1)
        digits_N = [decimals(means[:, task]) for task in range(len(self.task_names))]
        return [
            [f"{m:.{n}f} ± {d:.{n}f}" for m, d, n in zip(*row, digits_N, strict=True)]
            for row in zip(means, deviations, strict=True)
        ]

    def to_markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [["", *self.task_names], ["---"] * (1 + len(self.task_names))]
        lines += [[name, *cells] for name, cells in zip(self.rows, self.cells(), strict=True)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def expert_importance(
    model: BaseAlgorithm,
    env: GymEnv | str | None = None,
    *,
    network: str | None = None,
    episodes: int = 20,
    seed: int = 0,
    deterministic: bool = True,
) -> Importance:
    """Evaluate every task with each expert of a network off, from the same seed each time.

    :param model: of any algorithm, with one of this package's policies
    :param env: as in :func:`sb3_moe.watch`
    :param network: as in :func:`sb3_moe.without_expert`; None: the first with experts, which is
        the one that acts if it has any
    :param episodes: of each task; deviations need at least 2
    :param seed: of the environments and the actions
    :param deterministic: as in ``predict``
    :raises TypeError: as in :func:`sb3_moe.without_expert`, or if a number is no int
    :raises ValueError: if there is no such network, or a number is below 1
    """
    policy = policy_of(model)
    network = network or kind_of(next(iter(policy.moe_layers()), "pi"))
    layers = list(policy.mixtures(network).values())
    with watched_env(model, env, False, episodes) as watched:

        def play() -> Array:
            seed_everything(model, watched.env, seed)
            return evaluate_tasks(model, watched.env, episodes, deterministic).returns

        returns = [play()]
        for k in range(layers[0].num_experts):  # all these layers have as many
            with without_expert(model, network, k):
                returns.append(play())
    return Importance(network, watched.names, np.stack(returns))
