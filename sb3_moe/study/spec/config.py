"""What one training run is, as plain values: a cell of a study's grid."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from inspect import signature
from typing import Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError
from stable_baselines3 import PPO
from typing_extensions import TypedDict

from sb3_moe.presets import MINATAR_PPO
from sb3_moe.study.spec.entries import in_words
from sb3_moe.study.spec.games import check_games

#: what folders of version 0.1 don't say, and how it was
SAID_SINCE = {"no_op_max": 0}

Regime = Literal["mtrl", "crl", "scratch"]
Annealing = Literal["none", "run", "block"]

# What a cell gives PPO itself.
_OWN = ("policy", "env", "policy_kwargs", "seed", "device", "_init_setup_model")
_PPO = TypedDict(  # type: ignore[misc]  # its entries are PPO's own
    "_PPO",
    {p.name: p.annotation for p in signature(PPO).parameters.values() if p.name not in _OWN},
    total=False,
)
_CHECK_PPO = TypeAdapter(_PPO)


def _check(rule: bool, text: str) -> None:
    if not rule:
        raise ValueError(text)


# Bytes that file systems take for the name of a folder, and what a part of one leaves to others.
LONGEST_FOLDER, LONGEST_NAME = 255, 200


def check_name(of: str, name: str) -> None:
    """Raise unless a name can be a folder's, and part of one.

    :param of: what has it
    :raises ValueError: naming the rule and the name
    """
    _check(
        re.fullmatch(r"[^\s/\\.][^\s/\\]*", name) is not None
        and name.isprintable()
        and len(name.encode()) <= LONGEST_NAME,
        f"`name` of {of} must be a word of printable characters, without / or spaces, that doesn't "
        f"begin with a dot, of {LONGEST_NAME} bytes at most, got {name!r}",
    )


def check_ppo(ppo: Mapping[str, Any], where: str) -> None:
    """Raise unless values can be laid over the preset's.

    :param where: the entry that holds them
    :raises ValueError: naming what PPO doesn't take
    """
    _check(
        not isinstance(ppo, Mapping) or "policy_kwargs" not in ppo,
        f"`{where}.policy_kwargs` can't be given: options of the policy belong to an architecture, "
        "as in `architectures: {wide: {net_arch: [128, 128]}}`",
    )
    try:
        _CHECK_PPO.validate_python(ppo, strict=True, extra="forbid")
    except ValidationError as error:
        raise ValueError(in_words(error, _PPO, ppo, where)) from error
    n_steps = ppo.get("n_steps", 1)
    _check(n_steps >= 1, f"`{where}.n_steps` must be at least 1, got {n_steps}")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A column of the study: a policy and what it is built with.

    :param name: how folders and reports call it
    :param policy: an alias that SB3 knows, or ``package.module:Class``
    :param policy_kwargs: plain values laid over the preset's own ``policy_kwargs``
    :param ppo: values laid over the study's, such as a learning rate chosen for this network
    :raises ValueError: if its name can't be part of a folder's, or PPO doesn't take a value
    """

    name: str
    policy: str = "MoeMultiInputPolicy"
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    ppo: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("an architecture", self.name)
        check_ppo(self.ppo, f"architectures.{self.name}.ppo")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How often the agent is looked at, and how closely.

    :param points: evaluations per task and visit, evenly spread, besides the one before training
    :param episodes: episodes of every task at each of them
    :param deterministic: whether the policy takes its most likely action
    :raises ValueError: if there would be none
    """

    points: int = 10
    episodes: int = 20
    deterministic: bool = False

    def __post_init__(self) -> None:
        for name in ("points", "episodes"):
            value = getattr(self, name)
            _check(value >= 1, f"`evaluation.{name}` must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class CellConfig:
    """One training run.

    :param regime: ``"mtrl"`` interleaves the games by steps, ``"crl"`` plays them one after the
        other, ``"scratch"`` trains on one game only, in the spaces of all of them
    :param games: the tasks of the environment, by their index
    :param order: what ``"crl"`` plays, one after the other; ``"scratch"`` plays one game
    :param architecture: which network
    :param seed: of the model, the environments and the schedule
    :param steps_per_task: environment steps that each game gets on each visit, over all copies;
        the mean over the games where they are interleaved and have unequal shares of the copies
    :param cycles: how often the sequence of games is played through
    :param n_envs: copies of the environment that step together
    :param ppo: values laid over :data:`sb3_moe.presets.MINATAR_PPO`
    :param annealing: the learning rate falls linearly to zero over nothing, the run, or each block
    :param evaluation: how the agent is evaluated while it trains
    :param checkpoints: how many snapshots a run can go on from, evenly spread
    :param device: of torch
    :param no_op_max: most no-ops at the start of an episode, of MinAtar's games by their short
        names; with 0, as in version 0.1, all episodes of SpaceInvaders begin alike
    :raises ValueError: if a value is out of its range
    """

    regime: Regime
    games: tuple[str, ...]
    order: tuple[str, ...] = ()
    architecture: Architecture
    seed: int = 0
    steps_per_task: int = 262_144
    cycles: int = 1
    n_envs: int = 64
    ppo: Mapping[str, Any] = field(default_factory=dict)
    annealing: Annealing = "none"
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoints: int = 4
    device: str = "cpu"
    no_op_max: int = 0

    def __post_init__(self) -> None:
        for name, values in (("regime", get_args(Regime)), ("annealing", get_args(Annealing))):
            value = getattr(self, name)
            _check(value in values, f"`{name}` must be one of {', '.join(values)}, got {value!r}")
        check_games(self.games)
        check_device(self.device)
        check_ppo(self.ppo, "ppo")
        self._check_order()
        for name in ("steps_per_task", "cycles", "n_envs", "checkpoints"):
            value = getattr(self, name)
            _check(value >= 1, f"`{name}` must be at least 1, got {value}")
        for name in ("seed", "no_op_max"):
            value = getattr(self, name)
            _check(value >= 0, f"`{name}` must be at least 0, got {value}")
        _check(
            self.regime != "mtrl" or self.n_envs >= len(self.games),
            f"`n_envs` must be at least the number of games, {len(self.games)}, got {self.n_envs}",
        )
        _check(
            self.steps_per_task % self.rollout == 0,
            f"`steps_per_task` must be a multiple of the rollout of {self.architecture.name!r}, "
            f"n_envs * n_steps = {self.rollout}, got {self.steps_per_task}",
        )

    def _check_order(self) -> None:
        """The order belongs to the regimes that have one, and plays games that there are."""
        length = {"mtrl": (0,), "scratch": (1,)}.get(self.regime, range(1, 10_000))
        _check(
            len(self.order) in length,
            '`order` must be empty for "mtrl", one game for "scratch", and at least one for '
            f'"crl", got {list(self.order)} for "{self.regime}"',
        )
        for game in self.order:
            _check(
                game in self.games,
                f"`order` must be among the games {', '.join(self.games)}, got {game!r}",
            )

    @property
    def rollout(self) -> int:
        """Environment steps between two updates."""
        values = {**MINATAR_PPO, **self.ppo, **self.architecture.ppo}
        return self.n_envs * int(values["n_steps"])

    @property
    def total_steps(self) -> int:
        """Environment steps of the whole run."""
        blocks = len(self.order or self.games)
        return self.steps_per_task * blocks * self.cycles

    @property
    def name(self) -> str:
        """The name of its folder: what tells it from the study's other cells."""
        played = self.order or self.games
        games = ".".join(played)
        parts = [self.regime, games, self.architecture.name, f"s{self.seed}"]
        if len("-".join(parts).encode()) > LONGEST_FOLDER:
            # Orders may be of any length.
            parts[1] = f"{len(played)}.{hashlib.sha256(games.encode()).hexdigest()[:12]}"
        return "-".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``config.json`` holds them."""
        return {name: plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CellConfig:
        """Read what :meth:`to_dict` wrote."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"a cell has {sorted(known)}, got {unknown[0]!r}")
        nested = {
            "games": tuple(values["games"]),
            "order": tuple(values.get("order", ())),
            "architecture": Architecture(**values["architecture"]),
            "evaluation": Evaluation(**values.get("evaluation", {})),
        }
        return cls(**{**values, **nested})


def check_device(device: str) -> None:
    """Raise unless torch has a device.

    :raises ValueError: naming it
    """
    import torch as th

    try:
        th.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"`device` must be a device that torch has, got {device!r}: {reason}"
        ) from error


def plain(value: Any) -> Any:
    """Give lists for tuples and dicts for mappings and configs: what JSON gives back."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Say, a line each, what differs between two nested dicts of plain values."""
    lines = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return lines
