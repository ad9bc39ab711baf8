"""Named sets of tasks, and the Gymnasium ids of this package: two tables."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from typing import Any

import gymnasium as gym

from sb3_moe_envs import metaworld
from sb3_moe_envs.conflicts import conflicting_breakouts, conflicting_cartpoles, shuffled_breakouts
from sb3_moe_envs.schedules import Cycle, Progress, Schedule
from sb3_moe_envs.tasks import Task, as_tasks
from sb3_moe_envs.vector.gymnax import GAMES

# A function chooses the task of each episode.
ScheduleLike = Schedule | Callable[[Progress], int | str] | None

PAPER_GAMES = ("SpaceInvaders", "Breakout", "Asterix")
# The 20 games of "Mixtures of Experts Unlock Parameter Scaling for Deep RL" (arXiv 2402.08609).
ATARI_GAMES = (
    "Asterix", "SpaceInvaders", "Breakout", "Pong", "Qbert", "DemonAttack", "Seaquest",
    "WizardOfWor", "RoadRunner", "BeamRider", "Frostbite", "CrazyClimber", "Assault", "Krull",
    "Boxing", "Jamesbond", "Kangaroo", "UpNDown", "Gopher", "Hero",
)  # fmt: skip
_OURS = "sb3_moe_envs:SB3MoE"
_ROBOTS = ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Ant-v5")


@dataclass(frozen=True)
class Suite:
    """A named set of tasks, and the schedule they come with (None: interleaved).

    :param tasks: the tasks, in order
    :param schedule: the schedule that is used if none is given
    """

    tasks: Sequence[Task]
    schedule: ScheduleLike = None


def _games(kind: str, games: Sequence[str], schedule: ScheduleLike = None) -> Suite:
    return Suite([Task(game, f"{_OURS}/{kind.format(game)}") for game in games], schedule)


def _changed(env_id: str, physics: dict[str, dict[str, Any]]) -> Suite:
    """Return a suite with a task for each name."""
    return Suite([Task(name, f"{_OURS}/{env_id}-v0", own) for name, own in physics.items()])


def _combined(env_id: str, **values: Sequence[float]) -> Suite:
    """Return a suite with a task for each combination of values."""
    each = [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
    return Suite(as_tasks([(f"{_OURS}/{env_id}-v0", kwargs) for kwargs in each]))


def _gravities(robot: str) -> Suite:
    return _changed(
        robot, {f"{robot}-{gravity}g": {"gravity": gravity} for gravity in (0.5, 0.75, 1.0, 1.5)}
    )


def _metaworld(version: str, ending: str) -> dict[str, Suite]:
    """Return Meta-World's suites.

    :param version: one of its reward functions, or ``"EnvPool"``; it is part of each task's name
    :param ending: the ending of the suites' names
    """

    def task(name: str) -> Task:
        if version == "EnvPool":
            written = name.title().replace("-", "")
            options = {"env_id": f"MetaWorld/{written}-v3", "partially_observable": False}
            return Task(f"{name}(EnvPool)", f"{_OURS}/EnvPool-v0", options)
        options = {"task": name, "reward": version}
        return Task(f"{name}({version})", f"{_OURS}/MetaWorld-v0", options)

    def suite(names: Sequence[str], schedule: ScheduleLike = None) -> Suite:
        return Suite([task(name) for name in names], schedule)

    suites = {
        "MT3": suite(metaworld.EASY),
        "MT10": suite(metaworld.MT10),
        "MT50": suite(metaworld.TASKS),
        "CW3": suite(metaworld.EASY, Cycle(steps_per_task=200_000)),
        "CW10": suite(metaworld.CW10, Cycle(steps_per_task=1_000_000)),
        **{f"MT1-{name}": suite([name]) for name in metaworld.TASKS},
    }
    return {f"MetaWorld/{name}{ending}": each for name, each in suites.items()}


#: Every suite by its name, including those added by `register_suite`.
SUITES: dict[str, Suite] = {
    "MinAtar/MTRL3": _games("MinAtar-{}-v1", PAPER_GAMES),
    "MinAtar/CRL3": _games("MinAtar-{}-v1", PAPER_GAMES, Cycle(steps_per_task=1_000_000)),
    "MinAtar/All5": _games("MinAtar-{}-v1", GAMES),
    "Atari/Two": _games("Atari-{}-v0", ("Pong", "Breakout")),
    "Atari/Five": _games(
        "Atari-{}-v0", ("Asterix", "Breakout", "Pong", "Seaquest", "SpaceInvaders")
    ),
    "Atari/MoE20": _games("Atari-{}-v0", ATARI_GAMES),
    "Classic/CartPole4": _changed(
        "CartPole",
        {
            "Earth": {},
            "Moon": {"gravity": 1.62},
            "LongPole": {"length": 1.5},
            "WeakMotor": {"force_mag": 5.0},
        },
    ),
    "Classic/Mixed3": Suite(as_tasks(["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])),
    "Classic/Pendulum4": _changed(
        "Pendulum", {"Earth": {}, "Mars": {"g": 3.7}, "Heavy": {"m": 1.5}, "Short": {"l": 0.7}}
    ),
    # One policy plays all of these CartPoles: a control, in which nothing needs to be inferred.
    "Physics/CartPole8": _combined(
        "CartPole", gravity=(1.6, 25.0), length=(0.15, 2.0), masspole=(0.05, 2.0)
    ),
    # Where gravity is negative, a Pendulum falls upwards and must be slowed down, not swung up. The
    # long ones need the same torques as the short ones, since gravity is weak, but move slowly.
    "Physics/Pendulum4": _changed(
        "Pendulum",
        {
            "Short": {"g": 10.0},
            "Long": {"g": 4.0, "l": 2.0, "m": 1.25},
            "ShortAbove": {"g": -10.0},
            "LongAbove": {"g": -4.0, "l": 2.0, "m": 1.25},
        },
    ),
    "Goal/CartPole4": _combined("CartPole", goal=(-1.5, -0.5, 0.5, 1.5)),
    "Goal/Pendulum6": _combined("Pendulum", goal=(0.0, 0.35, -0.35, 3.14, 2.79, -2.79)),
    **{f"Conflict/CartPole{k}": Suite(conflicting_cartpoles(k)) for k in (1, 2, 4, 8, 16)},
    **{f"Conflict/Breakout{k}": Suite(conflicting_breakouts(k)) for k in (2, 4, 8)},
    "Plasticity/Breakout10": Suite(shuffled_breakouts(10), Cycle(steps_per_task=131_072)),
    "MuJoCo/Four": Suite(as_tasks(_ROBOTS)),
    "MuJoCo/Four-EnvPool": _changed("EnvPool", {robot: {"env_id": robot} for robot in _ROBOTS}),
    "MuJoCo/HopperGravity4": _gravities("Hopper"),
    "MuJoCo/HalfCheetahGravity4": _gravities("HalfCheetah"),
    **_metaworld("V2", ""),
    **_metaworld("V1", "-V1"),
    **_metaworld("EnvPool", "-EnvPool"),
}


def suite_names() -> list[str]:
    """Return the suites' names, with `MetaWorld/MT1-<task>` for all single tasks of Meta-World."""
    return sorted({re.sub("(?<=/MT1-).*?(?=-V1$|-EnvPool$|$)", "<task>", name) for name in SUITES})


def get_suite(name: str) -> list[Task]:
    """Return the tasks of a suite.

    :raises ValueError: if no suite has that name
    """
    if name not in SUITES:
        near = get_close_matches(name, SUITES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        if name.rpartition(":")[2] in gym.registry:
            hint = f"; ids of environments stand in a list, [{name!r}]"
        hint = hint or f"; there are {', '.join(suite_names())}"
        raise ValueError(f"`tasks` must name a suite, got {name!r}{hint}")
    return list(SUITES[name].tasks)


def tasks_of(tasks: Any) -> list[Task]:
    """Return the tasks of a suite, or of a list that :func:`~sb3_moe_envs.tasks.as_tasks` reads.

    :raises TypeError: if `tasks` is neither
    :raises ValueError: if the suite is unknown, or the list is empty
    """
    return get_suite(tasks) if isinstance(tasks, str) else as_tasks(tasks)


def register_suite(name: str, tasks: Any, schedule: ScheduleLike = None) -> None:
    """Add a suite under a new name: `register_suite("Mine/Two", ["CartPole-v1", "Acrobot-v1"])`.

    :raises ValueError: if the name is taken
    """
    if name in SUITES:
        raise ValueError(f"`name` must be new, got {name!r}, which is already a suite")
    SUITES[name] = Suite(tasks_of(tasks), schedule)


def suite_schedule(tasks: Any) -> ScheduleLike:
    """Return the schedule that a suite comes with, or None."""
    suite = SUITES.get(tasks) if isinstance(tasks, str) else None
    return suite.schedule if suite else None


NAMESPACE = "SB3MoE"


def _robot(robot: str) -> dict[str, Any]:
    return {
        "entry_point": "sb3_moe_envs.physics:mujoco",
        "kwargs": {"env_id": f"{robot}-v5"},
        "max_episode_steps": 1000,
    }


def _entry(single: str, vector: str, **kwargs: Any) -> dict[str, Any]:
    """Return what registers an environment that can also be a vector environment."""
    return {
        "entry_point": f"sb3_moe_envs.{single}",
        "vector_entry_point": f"sb3_moe_envs.{vector}",
        "kwargs": kwargs,
    }


_ATARI = ("vector.atari:AtariEnv", "vector.atari:AtariVectorEnv")
_CONFLICTING = ("conflicts:conflicting", "conflicts:many_conflicting")
_MINATAR = ("vector.gymnax:MinAtarEnv", "vector.gymnax:MinAtarVectorEnv")
_ENVPOOL = ("vector.envpool:EnvPoolEnv", "vector.envpool:EnvPoolVectorEnv")
_SUITE = ("multitask:MultiTaskEnv", "vector.multitask:make_multitask_vector")

#: arguments of `gymnasium.register`, by the name in `SB3MoE/<name>`
IDS: dict[str, dict[str, Any]] = {
    **{f"MinAtar-{game}-v1": _entry(*_MINATAR, game=game) for game in GAMES},
    **{f"Atari-{game}-v0": _entry(*_ATARI, game=game) for game in ATARI_GAMES},
    "Atari-v0": _entry(*_ATARI),
    "CartPole-v0": {"entry_point": "sb3_moe_envs.physics:cartpole", "max_episode_steps": 500},
    "Pendulum-v0": {"entry_point": "sb3_moe_envs.physics:pendulum", "max_episode_steps": 200},
    "ConflictingCartPole-v0": _entry(*_CONFLICTING, game="CartPole"),
    "ConflictingBreakout-v0": _entry(*_CONFLICTING, game="Breakout"),
    "ShuffledBreakout-v0": _entry(*_CONFLICTING, game="Breakout"),
    "Hopper-v0": _robot("Hopper"),
    "HalfCheetah-v0": _robot("HalfCheetah"),
    "EnvPool-v0": _entry(*_ENVPOOL, env_id="MetaWorld/Reach-v3"),
    "MetaWorld-v0": {"entry_point": "sb3_moe_envs.metaworld:MetaWorldEnv"},
    **{f"{name.replace('/', '-')}-v0": _entry(*_SUITE, tasks=name) for name in SUITES},
}


def register_all() -> None:
    """Register every id."""
    for name, entry in IDS.items():
        gym.register(f"{NAMESPACE}/{name}", **entry)
