"""Conflicting tasks: one environment in several coordinates, so no rule is right in all of them.

Entries of observations are permuted and negated, actions are exchanged. An agent that plays such
tasks side by side must distinguish them: what is right in one is wrong in another. Each alone is
exactly as hard as the environment itself.
"""

from __future__ import annotations

from random import Random
from typing import Any

from sb3_moe_envs.checks import whole
from sb3_moe_envs.coordinates import Conflicting
from sb3_moe_envs.tasks import Task

__all__ = ["Conflicting", "conflicting_breakouts", "conflicting_cartpoles", "shuffled_breakouts"]

# An exchange of left and right makes these of MinAtar's actions.
_MIRRORED = (0, 3, 2, 1, 4, 5)
# A permutation, signs, and whether actions are exchanged.
_Drawn = tuple[tuple[int, ...], tuple[int, ...], bool]


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
    return _tasks("Breakout", num_tasks, seed, signed=False, exchanged=_MIRRORED, most=48)


def _tasks(
    name: str, num_tasks: int, seed: int, *, signed: bool, exchanged: tuple[int, ...], most: int
) -> list[Task]:
    if whole("num_tasks", num_tasks) > most:
        raise ValueError(f"`num_tasks` must be at most {most}, got {num_tasks}")
    random = Random(whole("seed", seed, 0))
    plain: _Drawn = ((0, 1, 2, 3), (1, 1, 1, 1), False)
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


def _draw(random: Random, signed: bool, flip: bool) -> _Drawn:
    # Python promises the numbers of `random()` for a seed, and no more than those.
    keys = [random.random() for _ in range(4)]
    permutation = tuple(sorted(range(4), key=keys.__getitem__))
    signs = tuple(-1 if signed and random.random() < 0.5 else 1 for _ in range(4))
    return permutation, signs, flip


def _unmirrored(permutation: tuple[int, ...], signs: tuple[int, ...], flip: bool) -> _Drawn:
    """Return the CartPole without exchanged actions that has the same best policy."""
    return permutation, tuple(-sign for sign in signs) if flip else signs, False


def shuffled_breakouts(num_tasks: int, first: int = 0) -> list[Task]:
    """Return Breakouts each with another order of the pixels, equally hard for a flat network.

    :param num_tasks: how many
    :param first: number of the first one's permutation; 0 is the plain game
    :raises ValueError: if a number is out of range
    """
    first = whole("first", first, 0)
    numbers = range(first, first + whole("num_tasks", num_tasks))
    env_id = "sb3_moe_envs:SB3MoE/ShuffledBreakout-v0"
    return [Task(f"Breakout{k}", env_id, {"shuffle": k}) for k in numbers]
