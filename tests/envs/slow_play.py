"""Slow, obvious versions of the multi-task environments: each task runs alone."""

from typing import Any, NamedTuple

import numpy as np

from sb3_moe_envs import Task
from sb3_moe_envs.task_set import TaskSeeds


class Row(NamedTuple):
    """One step of one environment."""

    task: int
    obs: list[float]
    reward: float
    terminated: bool
    truncated: bool


def timeline(blocks: list[tuple[int, int]], length: int) -> list[int]:
    """The task at each count of steps, written out."""
    tasks = [task for task, steps in blocks for _ in range(steps)]
    return (tasks + [blocks[-1][0]] * length)[: length + 1]


def padded(obs: np.ndarray, size: int) -> list[float]:
    return [float(x) for x in obs] + [0.0] * (size - len(obs))


def own_action(action: int, num_actions: int) -> int:
    return action if action < num_actions else 0


def play_blocks(
    tasks: list[Task],
    blocks: list[tuple[int, int]],
    num_slots: int,
    seed: int,
    actions: np.ndarray,
    *,
    key: tuple[int, ...] = (),
) -> list[list[Row]]:
    """All slots play one task at a time, for blocks of steps over all slots.

    :param actions: (steps, num_slots)
    :param key: what a task's seed depends on, besides the task
    """
    size = max(task.make().observation_space.shape[0] for task in tasks)
    plan = timeline(blocks, actions.size)
    seeds = TaskSeeds()
    seeds.rewind(seed)
    envs: dict[int, list[Any]] = {}
    rows, count, current = [], 0, None
    for step in range(len(actions)):
        if current != plan[count]:
            current = plan[count]
            enter(envs, tasks, current, num_slots, seeds.take(current, *key))
        count += num_slots
        switch = plan[count] != current
        row = []
        for env, action in zip(envs[current], actions[step], strict=True):
            own = own_action(int(action), int(env.action_space.n))
            obs, reward, terminated, truncated, _ = env.step(own)
            # A vector environment starts the next episode by itself, a lone one when it is told.
            if (terminated or truncated) and (key or not switch):
                env.reset()
            truncated = truncated or (switch and not terminated)
            row.append(Row(current, padded(obs, size), reward, terminated, truncated))
        rows.append(row)
    return rows


def enter(
    envs: dict[int, list[Any]], tasks: list[Task], task: int, num_slots: int, seed: int | None
) -> None:
    """Start an episode of a task in every slot; only the first visit has a seed."""
    if task in envs:
        for env in envs[task]:
            env.reset()
        return
    assert seed is not None
    envs[task] = [tasks[task].make() for _ in range(num_slots)]
    for index, env in enumerate(envs[task]):
        env.reset(seed=seed + index)


def play_interleaved(
    tasks: list[Task], shares: list[float], unit: str, env_index: int, seed: int, actions: list[int]
) -> list[Row]:
    """One environment; each episode goes to the task furthest behind its share."""
    size = max(task.make().observation_space.shape[0] for task in tasks)
    seeds = TaskSeeds()
    seeds.rewind(seed)
    envs: dict[int, Any] = {}
    played = [0.0] * len(tasks)
    rows: list[Row] = []
    task = None
    for action in actions:
        if task is None:
            turn = [(k - env_index) % len(tasks) for k in range(len(tasks))]
            task = min(range(len(tasks)), key=lambda k: (played[k] / shares[k], turn[k]))
            if task not in envs:
                envs[task] = tasks[task].make()
                envs[task].reset(seed=seeds.take(task))
            else:
                envs[task].reset()
        env = envs[task]
        obs, reward, terminated, truncated, _ = env.step(own_action(action, env.action_space.n))
        rows.append(Row(task, padded(obs, size), reward, terminated, truncated))
        played[task] += 1 if unit == "steps" else 0
        if terminated or truncated:
            played[task] += 1 if unit == "episodes" else 0
            task = None
    return rows
