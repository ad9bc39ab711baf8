"""Returns of random and of reference agents, measured by ``python -m benchmarks.returns``.

By suite and task: a suite's common action space is part of what random actions do.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

Agent = Literal["random", "reference"]

# What `evaluate_tasks` is to be given, by agent.
_PLAYED = {
    "random": "of an object whose `predict` draws actions, as in help(random_returns)",
    "reference": "of models that were trained on a task each",
}

FILE = Path(__file__).with_name("returns.json")


class Measured(NamedTuple):
    """A mean return.

    :param mean: over all episodes
    :param standard_error: of that mean: over episodes for one agent, over agents for several
    :param episodes: of each agent
    :param agents: how many agents, each trained with another seed
    :param agent: what they are
    """

    mean: float
    standard_error: float
    episodes: int
    agents: int = 1
    agent: str = "uniformly random actions"


@cache
def load_measured(agent: Agent) -> dict[str, dict[str, Measured]]:
    """Read what was measured, by suite and task."""
    suites = json.loads(FILE.read_text())[agent]
    return {
        suite: {task: Measured(**values) for task, values in tasks.items()}
        for suite, tasks in suites.items()
    }


def random_returns(suite: str) -> dict[str, float]:
    """Return the mean return of uniformly random actions for each task of a suite, as measured.

    Those of another suite, or of tasks of your own, are played by whatever has a ``predict``:

    >>> import sb3_moe
    >>> from sb3_moe.callbacks import evaluate_tasks
    >>> env = sb3_moe.make_multitask_vec_env("Conflict/CartPole2", seed=0)
    >>> class Random:
    ...     def predict(self, obs, state=None, **kwargs):
    ...         return [env.action_space.sample() for _ in range(env.num_envs)], state
    >>> returns = evaluate_tasks(Random(), env, n_eval_episodes=20).returns.mean(axis=1)
    >>> returns.shape
    (2,)

    :param suite: as ``"MinAtar/MTRL3"``
    :raises ValueError: if it was not measured
    """
    return _means("random", suite)


def reference_returns(suite: str) -> dict[str, float]:
    """Return the mean return, for each task of a suite, of a dense agent trained on it alone.

    ``sb3_moe/metrics/returns.json`` says which agent that was.

    :param suite: as ``"MinAtar/MTRL3"``
    :raises ValueError: if it was not measured
    """
    return _means("reference", suite)


def _means(agent: Agent, suite: str) -> dict[str, float]:
    measured = load_measured(agent)
    if suite not in measured:
        raise ValueError(
            f"`suite` must be one of {sorted(measured)}, got {suite!r}; measure others with "
            f"sb3_moe.callbacks.evaluate_tasks, {_PLAYED[agent]}"
        )
    return {task: each.mean for task, each in measured[suite].items()}
