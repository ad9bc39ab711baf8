"""Which actions are allowed now: what the common space lacks and what the task itself forbids."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper

from sb3_moe_envs.meanings import OTHER_ACTIONS
from sb3_moe_envs.spaces.actions import choices

ACTION_MASKS = "action_masks"


class OwnMasks:
    """Lay a task's own masks, in its own space, over those of the common space.

    An action that stands for one of the task's, as those that it lacks do where they aren't masked,
    is allowed if that one is.

    :param common: the action space of all tasks
    :param task_spaces: each task's own
    :param invalid: what an action that a task lacks becomes, as of `MultiTaskEnv`
    """

    def __init__(self, common: Space[Any], task_spaces: Sequence[Space[Any]], invalid: str) -> None:
        #: entries of each task's own mask
        self.lengths = [sum(choices(space)) for space in task_spaces]
        self._deciders = [
            _deciders(choices(common), choices(space), invalid) for space in task_spaces
        ]

    def spread(self, task: int, own: Any) -> np.ndarray:
        """Return which actions of the common space a task's own masks allow.

        :param own: (..., own length)
        """
        deciders = self._deciders[task]
        return np.where(deciders < 0, True, np.asarray(own, dtype=bool)[..., deciders])


def has_masks(env: gym.Env[Any, Any]) -> bool:
    """Say whether an environment or one of its wrappers gives masks of the actions it takes."""
    return _layer_with_masks(env) is not None


def masks_of(env: gym.Env[Any, Any]) -> Any:
    """Return an environment's masks."""
    layer: Any = _layer_with_masks(env)
    return layer.action_masks()


def masks_of_copies(env: VectorEnv[Any, Any, Any]) -> Callable[[], Any] | None:
    """Return what gives the masks of all copies in a vector environment, a row for each.

    :return: None where neither the vector environment nor its copies have masks
    """
    layer = _layer_with_masks(env)
    if layer is not None:
        method: Callable[[], Any] = getattr(layer, ACTION_MASKS)
        return method
    base: Any = env.unwrapped
    # A property that raises, of our worker processes, says that the copies have none.
    if _changes_actions(env) or ACTION_MASKS in dir(type(base)):
        return None
    # Partials, since a copy of them asks the copies' copies, which a lambda wouldn't.
    if isinstance(base, SyncVectorEnv):
        return functools.partial(stacked, base) if all(map(has_masks, base.envs)) else None
    if hasattr(base, "call") and all(base.call("has_wrapper_attr", ACTION_MASKS)):
        return functools.partial(_called, base)
    return None


def stacked(copies: SyncVectorEnv) -> np.ndarray:
    """Return the masks of copies, a row for each."""
    return np.stack([masks_of(env) for env in copies.envs])


def _called(base: Any) -> np.ndarray:
    return np.stack(base.call(ACTION_MASKS))


def _layer_with_masks(env: Any) -> Any:
    """Return the outermost layer that has masks, of the same actions as the environment takes."""
    layer = env
    while not hasattr(layer, ACTION_MASKS):
        if not isinstance(layer, gym.Wrapper | VectorWrapper) or isinstance(layer, OTHER_ACTIONS):
            return None
        layer = layer.env
    return layer


def _changes_actions(env: Any) -> bool:
    while isinstance(env, VectorWrapper):
        if isinstance(env, OTHER_ACTIONS):
            return True
        env = env.env
    return False


def _deciders(common: Sequence[int], own: Sequence[int], invalid: str) -> np.ndarray:
    """Return, for each entry of the common mask, which entry of the task's decides; -1 for none."""
    deciders, start = [], 0
    for place, size in enumerate(common):
        if place >= len(own):
            deciders.append(np.full(size, -1))
            continue
        choice = np.arange(size)
        lacked: dict[str, Any] = {"noop": 0, "modulo": choice % own[place], "error": -1}
        becomes = np.where(choice < own[place], choice, lacked[invalid])
        deciders.append(np.where(becomes < 0, -1, becomes + start))
        start += own[place]
    return np.concatenate(deciders) if deciders else np.zeros(0, int)
