"""Returns of random and of reference agents, measured by ``python -m benchmarks.returns``.

By suite and task: a suite's common action space is part of what random actions do.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

Agent = Literal["random", "reference"]

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
            f"`suite` must be one of {sorted(measured)}, got {suite!r}; add one with "
            "sb3_moe_envs.register_suite and measure it with "
            f"python -m benchmarks.returns {agent}"
        )
    return {task: each.mean for task, each in measured[suite].items()}
