"""The cost of callbacks that measure: training time with them, at defaults, over without them.

``python -m benchmarks --only callbacks`` prints and writes the row.
"""

import statistics
import tempfile
import time
from typing import Any, NamedTuple

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

import sb3_moe
from benchmarks.timing import bounded
from sb3_moe import presets
from sb3_moe.callbacks import (
    PlasticityCallback,
    RoutingCallback,
    TaskGradientCallback,
    TaskRolloutCallback,
)

ROLLOUT = 64 * 128
# Each callback measures before training, every 50,000 steps and at the end.
STEPS = 25 * ROLLOUT
ROUNDS = 3
TARGET = 1.05


class Cost(NamedTuple):
    """Seconds of wall time, and of processor time in all threads together."""

    wall: float
    cpu: float


def run(rounds: int = ROUNDS, steps: int = STEPS) -> list[dict[str, Any]]:
    """Train on three MinAtar games, with callbacks and without, in turns; evaluation is left out.

    :param rounds: how often each variant is trained
    :param steps: global steps of each turn
    """
    # The first turn compiles the games.
    _train(False, ROLLOUT)
    costs: dict[bool, list[Cost]] = {False: [], True: []}
    for index in range(rounds):
        for watched in (False, True) if index % 2 == 0 else (True, False):
            costs[watched].append(_train(watched, steps))
    pairs = list(zip(costs[True], costs[False], strict=True))
    ratio = statistics.median(watched.wall / plain.wall for watched, plain in pairs)
    name = "PPO on three MinAtar games, all callbacks / none, time"
    more = {
        # On a machine with other work, the processors' time says more than the clock.
        "cpu_ratio": statistics.median(watched.cpu / plain.cpu for watched, plain in pairs),
        "plain_s": statistics.median(cost.wall for cost in costs[False]),
        "steps": steps,
    }
    return [bounded(name, ratio, at_most=TARGET) | more]


def _train(watched: bool, steps: int) -> Cost:
    env = sb3_moe.make_multitask_vec_env("MinAtar/MTRL3", n_envs=64, seed=0)
    hyperparameters = presets.with_policy(presets.MINATAR_PPO, placement="middle")
    model = PPO("MoeMultiInputPolicy", env, seed=0, device="cpu", **hyperparameters)
    with tempfile.TemporaryDirectory() as folder:
        callbacks: list[BaseCallback] = []
        if watched:
            callbacks = [
                TaskRolloutCallback(),
                PlasticityCallback(log_path=folder),
                RoutingCallback(log_path=folder),
                TaskGradientCallback(log_path=folder),
            ]
        wall, cpu = time.perf_counter(), time.process_time()
        model.learn(steps, callback=callbacks)
        cost = Cost(time.perf_counter() - wall, time.process_time() - cpu)
    env.close()
    return cost
