"""What is written down of one task, step by step.

Shapes: T steps, B copies of the environment, A choices of one kind, E experts, V critics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_moe.measures.activations import hidden_layers, policy_activations
from sb3_moe.measures.plasticity import TAUS, dormant_fraction, dormant_fraction_per_expert
from sb3_moe.networks.decisions import Decision
from sb3_moe.vec_env.evaluating import is_lost_life
from sb3_moe.vec_env.observations import Obs, concatenate, select, spread
from sb3_moe.watching.replay import Frame, Sleep, Track

# Observations on which units are asked whether they sleep.
PROBE = 256


class Notes:
    """One task, as it is played.

    :param task: its name
    :param actions: what it calls its choices
    """

    def __init__(self, task: str, actions: Sequence[str] = ()) -> None:
        self._task, self._actions = task, actions
        self._frames: dict[bytes, tuple[int, Frame]] = {}
        self._seen: list[Obs] = []
        self._rows: dict[str, list[Any]] = {}
        self._returns: list[float] = []
        self._so_far = 0.0
        self._begins, self._ended = True, False

    def is_over(self, goal: tuple[int, int]) -> bool:
        """Say whether so many episodes have ended, or so many steps are made."""
        episodes, steps = goal
        return len(self._returns) >= episodes or len(self._seen) >= steps

    @property
    def has_just_ended(self) -> bool:
        """Say whether the last step ended an episode."""
        return self._ended

    def see(
        self,
        copy: int,
        obs: Any,
        pictures: Sequence[Frame | None] | None,
        decision: Decision,
        gates: Mapping[str, th.Tensor],
    ) -> None:
        """Note what the agent sees and thinks.

        :param copy: its row in what follows
        :param obs: of all copies
        :param pictures: of all copies, if there are any
        :param decision: of all copies
        :param gates: of all copies, by mixture
        """
        self._seen.append(select(obs, np.array([copy])))
        self._add("frame", self._frame(None if pictures is None else pictures[copy]))
        for i, each in enumerate(decision.preferences):
            self._add(f"preferences {i}", each[copy].cpu().numpy())
        if decision.spread is not None:
            self._add("spread", decision.spread[copy].cpu().numpy())
        self._add("values", [float(each[copy]) for each in decision.values.values()])
        for name, gates_BE in gates.items():
            self._add(f"gates {name}", gates_BE[copy].numpy())

    def do(self, action: Any, task: int) -> None:
        """Note what the agent does, and in which task."""
        self._add("actions", np.asarray(action, np.float32).reshape(-1))
        self._add("starts", self._begins)
        self._add("tasks", int(task))

    def get(self, reward: float, done: bool, info: Mapping[str, Any]) -> None:
        """Note what came of it."""
        self._add("rewards", float(reward))
        self._so_far += float(reward)
        # A lost life ends nothing: its game's return goes on.
        self._begins = self._ended = done and not is_lost_life(info)
        if self._ended:
            self._returns.append(self._so_far)
            self._so_far = 0.0

    def track(self, policy: BasePolicy, mixtures: Sequence[str]) -> Track:
        """Return all of it.

        :param policy: which is asked for its dormant units
        :param mixtures: their names
        """
        several = [name for name in self._rows if name.startswith("preferences ")]
        return Track(
            task=self._task,
            frames=[frame for _, frame in self._frames.values()],
            frame_T=np.array(self._rows["frame"], np.int32),
            actions_TD=self._floats("actions"),
            preferences=[self._floats(name) for name in several],
            spread_TD=self._floats("spread") if "spread" in self._rows else None,
            values_TV=self._floats("values"),
            rewards_T=self._floats("rewards"),
            starts_T=np.array(self._rows["starts"]),
            tasks_T=np.array(self._rows["tasks"], np.int32),
            gates={name: self._floats(f"gates {name}") for name in mixtures},
            returns=self._returns,
            sleep=asleep(policy, self._seen),
            actions=list(self._actions),
        )

    def _add(self, name: str, value: Any) -> None:
        self._rows.setdefault(name, []).append(value)

    def _floats(self, name: str) -> npt.NDArray[np.float32]:
        return np.array(self._rows[name], np.float32)

    def _frame(self, picture: Frame | None) -> int:
        """Return the number of a picture; one that was there before is kept once."""
        if picture is None:
            return -1
        frame = np.ascontiguousarray(picture)
        key = str(frame.shape).encode() + hashlib.sha256(frame.data).digest()
        if key not in self._frames:
            self._frames[key] = len(self._frames), frame.copy()
        return self._frames[key][0]


def asleep(policy: BasePolicy, seen: Sequence[Obs]) -> list[Sleep]:
    """Return how much of each hidden layer is dormant on what the agent saw.

    :param policy: of any algorithm
    :param seen: observations, one of each step
    """
    if not hidden_layers(policy):
        return []
    batch = spread(concatenate(seen), min(PROBE, len(seen)))
    found = []
    for layer, activations in policy_activations(policy, batch).items():
        activity_EH, tau = activations.activity_EH, TAUS[0]
        each = tuple(dormant_fraction_per_expert(activity_EH, tau).tolist())
        found.append(Sleep(layer, dormant_fraction(activity_EH, tau), each))
    return found
