"""Conflicting tasks: one world in several coordinates, so that no rule is right in all of them."""

from __future__ import annotations

from random import Random
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import TimeLimit

from sb3_moe_envs.coordinates import Conflicting, ConflictingVector
from sb3_moe_envs.numbers import whole
from sb3_moe_envs.tasks import Task

#: what an exchange of left and right makes of MinAtar's actions
MIRRORED = (0, 3, 2, 1, 4, 5)
#: a permutation, signs, and whether actions are exchanged
Drawn = tuple[tuple[int, ...], tuple[int, ...], bool]


def cartpole(render_mode: str | None = None, **coordinates: Any) -> gym.Env[Any, Any]:
    """Build `CartPole-v1` in other coordinates.

    :param coordinates: as of :class:`~sb3_moe_envs.coordinates.Conflicting`
    """
    from gymnasium.envs.classic_control import CartPoleEnv

    from sb3_moe_envs.vector.cartpole import MAX_STEPS

    return Conflicting(TimeLimit(CartPoleEnv(render_mode=render_mode), MAX_STEPS), **coordinates)


def cartpoles(
    num_envs: int = 1, *, render_mode: str | None = None, **coordinates: Any
) -> ConflictingVector:
    """Build copies of `CartPole-v1` in other coordinates that step together."""
    from sb3_moe_envs.vector.cartpole import CartPoleWorld

    return ConflictingVector(CartPoleWorld(num_envs, render_mode=render_mode), **coordinates)


def breakout(render_mode: str | None = None, **coordinates: Any) -> gym.Env[Any, Any]:
    """Build MinAtar's Breakout in other coordinates.

    :param coordinates: as of :class:`~sb3_moe_envs.coordinates.Conflicting`
    """
    from sb3_moe_envs.minatar import MinAtarEnv

    return Conflicting(MinAtarEnv("Breakout", render_mode), **coordinates)


def breakouts(
    num_envs: int = 1, *, render_mode: str | None = None, **coordinates: Any
) -> ConflictingVector:
    """Build copies of MinAtar's Breakout in other coordinates that step together."""
    from sb3_moe_envs.minatar import MinAtarVectorEnv

    world = MinAtarVectorEnv("Breakout", num_envs, render_mode=render_mode)
    return ConflictingVector(world, **coordinates)


def conflicting_cartpoles(num_tasks: int, seed: int = 0) -> list[Task]:
    """Draw CartPoles of which no two have the same best policy.

    The first is the plain one, and in every second actions are exchanged. Fewer tasks of one seed
    are the first of more. CartPole has a mirror: to negate all entries and exchange the actions
    changes nothing, so that two tasks differ in more than that.

    :param num_tasks: at most 384
    :param seed: at least 0
    :raises ValueError: if there are not so many, or the seed is no such number
    """
    return _tasks("CartPole", num_tasks, seed, signed=True, exchanged=(1, 0), most=384)


def conflicting_breakouts(num_tasks: int, seed: int = 0) -> list[Task]:
    """Draw Breakouts with permuted channels, left and right exchanged in every second.

    The first is the plain one.

    :param num_tasks: at most 48; fewer of one seed are the first of more
    :param seed: at least 0
    :raises ValueError: if there are not so many, or the seed is no such number
    """
    return _tasks("Breakout", num_tasks, seed, signed=False, exchanged=MIRRORED, most=48)


def _tasks(
    name: str, num_tasks: int, seed: int, *, signed: bool, exchanged: tuple[int, ...], most: int
) -> list[Task]:
    if whole("num_tasks", num_tasks) > most:
        raise ValueError(f"`num_tasks` must be at most {most}, got {num_tasks}")
    random = Random(whole("seed", seed, 0))
    plain: Drawn = ((0, 1, 2, 3), (1, 1, 1, 1), False)
    found = {plain: plain}
    while len(found) < num_tasks:
        drawn = _draw(random, signed, flip=len(found) % 2 == 1)
        found.setdefault(_unmirrored(*drawn) if signed else drawn, drawn)
    env_id = f"sb3_moe_envs:SB3MoE/Conflicting{name}-v0"
    tasks = []
    for k, (permutation, signs, flip) in enumerate(found.values()):
        own: dict[str, Any] = {"permutation": permutation}
        own |= {"signs": signs} if signed else {}
        tasks.append(Task(f"{name}{k}", env_id, own | ({"actions": exchanged} if flip else {})))
    return tasks


def _draw(random: Random, signed: bool, flip: bool) -> Drawn:
    # Python promises the numbers of `random()` for a seed, and no more than those.
    keys = [random.random() for _ in range(4)]
    permutation = tuple(sorted(range(4), key=keys.__getitem__))
    signs = tuple(-1 if signed and random.random() < 0.5 else 1 for _ in range(4))
    return permutation, signs, flip


def _unmirrored(permutation: tuple[int, ...], signs: tuple[int, ...], flip: bool) -> Drawn:
    """Give the CartPole without exchanged actions that has the same best policy."""
    return permutation, tuple(-sign for sign in signs) if flip else signs, False
