"""Does memory stay flat? Long runs with many callbacks, and resident memory at each tenth.

``python -m benchmarks --only memory`` takes several minutes.
"""

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

import sb3_moe
from benchmarks.timing import bounded
from sb3_moe import callbacks as watching
from sb3_moe_envs.schedules import Cycle

HOW = (
    "Resident memory at the end of a run over that after its first tenth, one run after the other "
    "in one process."
)
# How often each callback measures or acts in a run.
LOOKS = 40
# Few, small experts: what matters is the memory that each step leaves, not its speed.
EXPERTS: dict[str, Any] = {"placement": "big", "num_experts": 2}
TARGET = 1.02
Make = Callable[[int], BaseAlgorithm]


def ppo(steps: int) -> BaseAlgorithm:
    """Build PPO on four conflicting CartPoles, interleaved."""
    env = sb3_moe.make_multitask_vec_env("Conflict/CartPole4", 256, seed=0)
    return PPO(
        "MoeMultiInputPolicy",
        env,
        n_steps=32,
        batch_size=2048,
        n_epochs=2,
        policy_kwargs=EXPERTS | {"net_arch": [16, 16]},
        seed=0,
        device="cpu",
    )


def dqn(steps: int) -> BaseAlgorithm:
    """Build DQN on four conflicting CartPoles, one after the other, four times."""
    schedule = Cycle(steps // 16)
    env = sb3_moe.make_multitask_vec_env("Conflict/CartPole4", 64, seed=0, schedule=schedule)
    return DQN(
        "MoeMultiInputPolicy",
        env,
        buffer_size=steps // 20,
        learning_starts=1000,
        train_freq=4,
        policy_kwargs=EXPERTS | {"net_arch": [16, 16]},
        seed=0,
        device="cpu",
    )


def sac(steps: int) -> BaseAlgorithm:
    """Build SAC on four Pendulums, one after the other, four times."""
    schedule = Cycle(steps // 16)
    env = sb3_moe.make_multitask_vec_env("Classic/Pendulum4", 16, seed=0, schedule=schedule)
    return SAC(
        "MoeMultiInputPolicy",
        env,
        buffer_size=steps // 20,
        learning_starts=1000,
        train_freq=4,
        policy_kwargs=EXPERTS | {"net_arch": [16, 16]},
        seed=0,
        device="cpu",
    )


STEPS: dict[Make, int] = {ppo: 2_000_000, dqn: 2_000_000, sac: 300_000}


class Resident(BaseCallback):
    """Note and print this process's resident memory, in MB, at the end of each tenth of a run.

    :param steps: of the whole run
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.tenths: list[float] = []

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.steps * (len(self.tenths) + 1) // 10:
            gc.collect()
            self.tenths.append(resident_mb())
            # At once, since a run takes minutes.
            print(f"{self.num_timesteps:,} steps: {self.tenths[-1]:.1f} MB", flush=True)
        return True


def resident_mb() -> float:
    """Return the resident memory of this process in MB; needs Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def every_callback(model: BaseAlgorithm, steps: int, folder: str) -> Iterator[BaseCallback]:
    """Return callbacks that measure, reset or save, as far as the algorithm takes them."""
    every, on_policy = steps // LOOKS, isinstance(model, PPO)
    yield watching.MultiTaskEvalCallback(every, 10, log_path=folder)
    yield watching.PlasticityCallback(every, log_path=folder)
    yield watching.RoutingCallback(every, log_path=folder)
    yield watching.TaskRolloutCallback()
    yield watching.ReDoCallback(every)
    yield watching.ResetHeadsCallback(every)
    yield watching.ShrinkAndPerturbCallback(every)
    if on_policy:
        yield watching.TaskGradientCallback(every, log_path=folder)
        yield watching.TaskSwitchCallback(reset_optimizer=True)
    else:
        yield watching.TaskSwitchCallback(reset_optimizer=True, replay_buffer="reservoir")
    yield watching.SnapshotCallback(every, folder)


def run() -> list[dict[str, Any]]:
    """Train each algorithm with its callbacks, and return a row for each."""
    return [measure(make, steps) for make, steps in STEPS.items()]


def measure(make: Make, steps: int) -> dict[str, Any]:
    """Train one algorithm, and return its memory at each tenth and the run's processor time."""
    model, resident = make(steps), Resident(steps)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        model.set_logger(configure(folder, ["csv"]))
        model.learn(steps, callback=[*every_callback(model, steps, folder), resident])
    model.get_env().close()  # type: ignore[union-attr]  # it has one
    first, last = resident.tenths[0], resident.tenths[-1]
    name = f"{make.__name__.upper()}, {steps:,} steps, resident memory"
    row = bounded(name, last / first, at_most=TARGET) | {"cpu_s": time.process_time() - begun}
    return row | {f"mb_{tenth}": mb for tenth, mb in enumerate(resident.tenths, 1)}
