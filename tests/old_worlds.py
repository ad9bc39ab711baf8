"""Schedules, worlds, normalisers, buffers and runs of version 0.1.0, as every version can build
them again.

Change nothing here but by adding: the files in ``fixtures/v0_1_0`` were made with it.
"""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_moe
from sb3_moe.callbacks import (
    MultiTaskEvalCallback,
    PlasticityCallback,
    RoutingCallback,
    SnapshotCallback,
)
from sb3_moe.vec_env import MultiTaskReplayBuffer
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize
from sb3_moe_envs import Adaptive, Chosen, Cycle, Interleave, MultiTaskEnv, Sequence
from sb3_moe_envs.schedules import Episode
from sb3_moe_envs.vector.make import make_multitask_vector

NAMES = ("one", "two", "three")
CLASSIC = ["CartPole-v1", "Acrobot-v1"]
TOTAL = 128


def at_random(progress: Any) -> int:
    """Choose for ``Chosen``."""
    return int(progress.rng.integers(3))


SCHEDULES: dict[str, Any] = {
    "interleave-steps": lambda: Interleave(),
    "interleave-episodes": lambda: Interleave("episodes", weights=[1, 2, 3]),
    "interleave-random": lambda: Interleave("episodes", order="random"),
    "cycle-steps": lambda: Cycle(steps_per_task=70, num_cycles=2, shuffle_seed=3),
    "cycle-episodes": lambda: Cycle(episodes_per_task=7, order=["two", 0, 2], num_cycles=None),
    "sequence": lambda: Sequence([("two", 60), (0, 90), (2, 40)]),
    "adaptive": lambda: Adaptive(
        "steps>=50 and return>=0.4 or steps>=90", window=3, num_cycles=None
    ),
    "chosen": lambda: Chosen(at_random),
}


def play(schedule: Any, episodes: int, seed: int) -> list[int]:
    """Play episodes of random length and reward; return the task at the end of each."""
    rng = np.random.default_rng(seed)
    tasks = []
    for _ in range(episodes):
        task, steps = schedule.task, int(rng.integers(1, 12))
        schedule.count(steps)
        schedule.end(Episode(task, steps, float(rng.random()), float(rng.integers(2))))
        tasks.append(int(schedule.task))
    return tasks


def started(name: str) -> Any:
    schedule = SCHEDULES[name]()
    schedule.start(NAMES, seed=5, env_index=1)
    return schedule


def single_world() -> Any:
    return MultiTaskEnv(CLASSIC, schedule=Cycle(steps_per_task=37, num_cycles=None))


def shared_world() -> Any:
    return make_multitask_vector(CLASSIC, 4)


def turns_world() -> Any:
    return make_multitask_vector(CLASSIC, 4, schedule=Cycle(steps_per_task=120, num_cycles=None))


WORLDS: dict[str, Any] = {"single": single_world, "shared": shared_world, "turns": turns_world}


def walk(world: Any, steps: int) -> dict[str, np.ndarray]:
    """Take fixed actions; return what was seen, earned and played."""
    found: dict[str, list[Any]] = {"obs": [], "task_id": [], "reward": [], "done": []}
    num = getattr(world, "num_envs", 1)
    for t in range(steps):
        actions = (np.arange(num) + t // 3) % 2
        single = not hasattr(world, "single_action_space")
        obs, reward, terminated, truncated, _ = world.step(int(actions[0]) if single else actions)
        if single and (terminated or truncated):
            obs, _ = world.reset()
        found["obs"].append(obs["obs"])
        found["task_id"].append(obs["task_id"])
        found["reward"].append(reward)
        found["done"].append(np.logical_or(terminated, truncated))
    return {name: np.array(values) for name, values in found.items()}


def two_tasks(**kwargs: Any) -> Any:
    return sb3_moe.make_multitask_vec_env(CLASSIC, n_envs=2, seed=0, **kwargs)


NORMALISERS: dict[str, Any] = {
    "vec_normalize": lambda: VecNormalize(two_tasks(), norm_obs_keys=["obs"]),
    "per_task": lambda: PerTaskVecNormalize(two_tasks()),
}
LOADERS: dict[str, Any] = {"vec_normalize": VecNormalize, "per_task": PerTaskVecNormalize}


def normalised(env: Any, name: str) -> dict[str, np.ndarray]:
    """Return what a normaliser makes of fixed observations and rewards of both tasks."""
    rng = np.random.default_rng(0)
    obs = {"obs": rng.normal(size=(2, 6)).astype(np.float32), "task_id": np.array([0, 1])}
    tasks = (obs["task_id"],) if name == "per_task" else ()
    rewards = env.normalize_reward(np.array([1.0, -1.0]), *tasks)
    return {"obs": env.normalize_obs(obs)["obs"], "rewards": rewards}


def replaying(**kwargs: Any) -> Any:
    """Return a DQN whose buffer balances tasks."""
    return DQN(
        "MoeMultiInputPolicy",
        PerTaskVecNormalize(two_tasks(schedule=Cycle(steps_per_task=24, num_cycles=None))),
        learning_starts=16,
        batch_size=8,
        train_freq=4,
        buffer_size=64,
        replay_buffer_class=MultiTaskReplayBuffer,
        policy_kwargs={"net_arch": [4], "num_experts": 2},
        device="cpu",
        seed=0,
        **kwargs,
    )


def batch_of(model: Any) -> dict[str, np.ndarray]:
    """Draw a batch as training would."""
    batch = model.replay_buffer.sample(8, model.get_vec_normalize_env())
    found = batch.observations | {"actions": batch.actions, "rewards": batch.rewards}
    return {name: tensor.numpy() for name, tensor in found.items()}


def ppo_run() -> Any:
    return PPO(
        "MoeMultiInputPolicy",
        PerTaskVecNormalize(two_tasks(schedule=Cycle(steps_per_task=64))),
        n_steps=8,
        batch_size=8,
        n_epochs=1,
        policy_kwargs={"net_arch": [4], "num_experts": 2},
        device="cpu",
        seed=0,
    )


def dqn_run(env: Any = None) -> Any:
    return DQN(
        "MoeMultiInputPolicy",
        env or two_tasks(),
        learning_starts=16,
        batch_size=8,
        train_freq=8,
        buffer_size=64,
        policy_kwargs={"net_arch": [4], "num_experts": 2},
        device="cpu",
        seed=0,
    )


def single_run() -> Any:
    return dqn_run(DummyVecEnv([lambda: Monitor(single_world())]))


RUNS: dict[str, Any] = {"ppo": ppo_run, "dqn": dqn_run, "single": single_run}


def callbacks(name: str, folder: Path) -> list[Any]:
    """Return the callbacks whose files a run's folder holds."""
    snapshots = SnapshotCallback(48, folder, keep=1)
    if name == "single":  # there is no telling how its environment was built
        return [snapshots]
    # 0.1 had no such argument, and a copy for each episode.
    known = "n_eval_envs" in signature(MultiTaskEvalCallback).parameters
    copies: dict[str, Any] = {"n_eval_envs": 2} if known else {}
    return [
        MultiTaskEvalCallback(32, 2, log_path=folder, deterministic=False, **copies),
        PlasticityCallback(32, probe_size=16, ntk_size=4, log_path=folder),
        RoutingCallback(32, probe_size=16, log_path=folder),
        snapshots,
    ]


def finish(name: str, folder: Path) -> Any:
    """Go on from a folder's snapshot to the end; return the model."""
    model, env = sb3_moe.resume(folder, device="cpu", trust=True)
    left = TOTAL - model.num_timesteps
    model.learn(left, callback=callbacks(name, folder), reset_num_timesteps=False)
    env.close()
    return model
