"""What a step of Meta-World's ten tasks costs, in processes and in Meta-World's own vector.

``python -m benchmarks --only metaworld``; needs the extra ``metaworld``, and no screen.
"""

import time
from typing import Any

import numpy as np

from benchmarks.timing import Clock, bounded, paired, ratio

ROUNDS = 15
SLICE_S = 1.0
SUITE = "MetaWorld/MT10"


def run(rounds: int = ROUNDS, slice_s: float = SLICE_S) -> list[dict[str, Any]]:
    """Measure side by side, so that whatever else the machine does slows both variants.

    Processes are compared with one process by wall time, which they should save. The two vectors in
    one process are compared by processor time, which is the same on a busy machine.

    :param rounds: interleaved rounds
    :param slice_s: seconds for each variant in a round
    """
    envs = {"sync": ours("sync"), "async": ours("async"), "theirs": theirs()}
    steps = {name: random_steps(env) for name, env in envs.items()}

    def compared(ours: str, other: str, clock: Clock) -> dict[str, list[float]]:
        both = {name: steps[name] for name in (ours, other)}
        return paired(both, rounds=rounds, slice_s=slice_s, clock=clock)

    waited = compared("async", "sync", time.perf_counter)
    worked = compared("sync", "theirs", time.process_time)
    for env in envs.values():
        env.close()
    return [
        row("async / sync, MT10, ten copies", waited, "async", "sync", 1.5),
        row("sync / Meta-World's own vector, MT10, ten copies", worked, "sync", "theirs", 0.9),
    ]


def row(
    name: str, seconds: dict[str, list[float]], ours: str, other: str, at_least: float
) -> dict[str, Any]:
    """Return the ratio of two rates, and both."""
    value = ratio(seconds[other], seconds[ours])
    rates = {key: 10 / float(np.median(times)) for key, times in seconds.items()}
    more = {"ours_steps_per_s": rates[ours], "theirs_steps_per_s": rates[other]}
    return bounded(name, value, at_least) | more


def ours(vectorization: str) -> Any:
    """Build the ten environments of our suite, one for each task."""
    from sb3_moe_envs import make_multitask_vector

    env = make_multitask_vector(SUITE, vectorization=vectorization)
    env.reset(seed=0)
    return env


def theirs() -> Any:
    """Build Meta-World's own vector environment of the same ten tasks."""
    import gymnasium as gym
    import metaworld  # noqa: F401  # registers its ids

    # Two goals for each task in place of fifty: finding them takes time, but no later step does.
    env = gym.make_vec("Meta-World/MT10", seed=0, num_goals=2)
    env.reset(seed=0)
    return env


def random_steps(env: Any) -> Any:
    """Return a function that makes one random step."""
    actions = np.random.default_rng(0).uniform(-1, 1, (64, 10, 4)).astype(np.float32)
    turn = iter(range(10**9))
    return lambda: env.step(actions[next(turn) % 64])
