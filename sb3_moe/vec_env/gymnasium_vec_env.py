"""Gymnasium vector environments as SB3's VecEnv."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnvIndices,
    VecEnvObs,
    VecEnvStepReturn,
)

from sb3_moe.vec_env.members import VectorMembers

# What a vector environment's infos say of episodes that ended.
_FINAL = frozenset({"final_obs", "_final_obs", "final_info", "_final_info"})
# And of what has a place of its own in the infos of steps.
_HANDLED = _FINAL | {"task_id", "_task_id"}


class GymnasiumVecEnv(VecEnv):
    """Any Gymnasium vector environment with SAME_STEP autoreset, as SB3 expects it.

    Where the environment reports ``info["task_id"]``, each step's info holds the ``task_id`` (and
    ``task_name``) of the task that made the step; at the end of an episode, the finished one's.

    :param env: the vector environment; its autoreset mode must be SAME_STEP
    :raises TypeError: if ``env`` isn't a vector environment
    :raises ValueError: if its autoreset mode isn't SAME_STEP, it hands out one array over again, or
        its actions aren't arrays
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        if not isinstance(env, VectorEnv):
            raise TypeError(f"`env` must be a gymnasium.vector.VectorEnv, got {type(env)}")
        _check_autoreset(env)
        _check_actions(env)
        self.env = env
        self.spec = env.spec
        self._members = VectorMembers(env)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = env.metadata
        self._task_names = self._members.task_names()
        self._task_ids: np.ndarray | None = None
        self._step_infos: list[dict[str, Any]] = [
            {"TimeLimit.truncated": False} for _ in range(self.num_envs)
        ]
        self._observations: Any = None
        self._restored = False
        #: the arguments of `make_multitask_vec_env`, by which callbacks build such another
        self.built_with: dict[str, Any] | None = None

    def reset(self) -> VecEnvObs:
        """Start an episode in every environment.

        The first reset after :meth:`load_state_dict` goes on with the episodes that were restored.
        """
        if not self._restored:
            self._observations, infos = self.env.reset(seed=self._seed(), options=self._option())
            self.reset_infos = rows_of(infos, self.num_envs)
            self._note_tasks(infos)
        self._restored = False
        self._reset_seeds()
        self._reset_options()
        return self._observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments; those that end start again and report their last observation."""
        self._restored = False
        self._observations, rewards, terminated, truncated, vector_infos = self.env.step(
            self._actions
        )
        # ALE's environment gives a final observation for every row and no mask: the flags decide.
        dones = terminated | truncated
        infos = [info.copy() for info in self._step_infos]
        self._add_infos(infos, vector_infos, dones)
        for i in np.flatnonzero(dones).tolist():
            infos[i]["terminal_observation"] = row_of(vector_infos["final_obs"], i)
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        self._note_tasks(vector_infos)
        return self._observations, np.asarray(rewards, np.float32), dones, infos

    def close(self) -> None:
        """Close the vector environment."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return each environment's picture."""
        frames: Any = self.env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of each environment, or of the vector environment, once for each."""
        return self._members.get(attr_name, list(self._get_indices(indices)))

    def has_attr(self, attr_name: str) -> bool:
        """Say whether each environment, or the vector environment, has an attribute."""
        return self._members.has(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each environment, or of the vector environment.

        :raises ValueError: if only some environments are meant and they can't be told apart
        """
        self._members.set(attr_name, value, list(self._get_indices(indices)))

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of each environment, or of the vector environment as a whole.

        A method of the vector environment is called once. ``indices`` is handed on if it takes
        them; a result with a row for each environment is dealt out.

        :raises ValueError: if only some environments are meant and they can't be told apart
        """
        chosen = list(self._get_indices(indices))
        return self._members.call(method_name, chosen, *method_args, **kwargs)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Say of each environment whether it is in such a wrapper."""
        return self._members.are_wrapped(wrapper_class, list(self._get_indices(indices)))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the environments and what :meth:`reset` and the next step report.

        :raises AttributeError: if the vector environment has no state to give
        """
        return {
            "env": self._members.of_all("state_dict")(),
            "observations": copy.deepcopy(self._observations),
            "task_ids": None if self._task_ids is None else self._task_ids.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` returned; the next reset keeps to it.

        Where an environment had to start anew, as MuJoCo's do, the next reset starts all anew.
        """
        self._members.of_all("load_state_dict")(state["env"])
        inner = state["env"]
        exact = inner.get("exact", True) if isinstance(inner, Mapping) else True
        self._observations = state["observations"] if exact else None
        self._restored = self._observations is not None
        if state["task_ids"] is not None:
            self._note_tasks({"task_id": np.asarray(state["task_ids"])})

    def _seed(self) -> Any:
        # One number reaches what a vector environment seeds besides its copies: its schedule.
        first = self._seeds[0]
        if first is None:
            return None
        consecutive = [first + i for i in range(self.num_envs)]
        return first if self._seeds == consecutive else self._seeds

    def _option(self) -> dict[str, Any] | None:
        first = self._options[0]
        if any(options != first for options in self._options):
            raise ValueError(
                "options must be the same for all environments of a gymnasium vector environment, "
                f"got {self._options}"
            )
        return first or None

    def _note_tasks(self, vector_infos: Mapping[str, Any]) -> None:
        """Remember which task each environment plays, for the infos of its next step."""
        if not _says_ours(vector_infos):
            return
        told = np.asarray(vector_infos["task_id"])
        before = np.full(self.num_envs, -1) if self._task_ids is None else self._task_ids
        # A row that says nothing goes on: its environment may name its task at a start alone.
        task_ids = np.where(vector_infos.get("_task_id", True), told, before)
        for i in np.flatnonzero(task_ids != before):
            task = int(task_ids[i])
            self._step_infos[i] = {"TimeLimit.truncated": False, "task_id": task}
            if self._task_names is not None:
                self._step_infos[i]["task_name"] = self._task_names[task]
        self._task_ids = task_ids

    def _add_infos(
        self, infos: list[dict[str, Any]], vector_infos: Mapping[str, Any], dones: np.ndarray
    ) -> None:
        """Deal out what else the environments report; a row that ended reports its final info."""
        handled = _HANDLED if _says_ours(vector_infos) else _FINAL
        extra = {key: value for key, value in vector_infos.items() if key not in handled}
        if extra:
            for i, row in enumerate(rows_of(extra, self.num_envs)):
                if not dones[i]:
                    infos[i].update(row)
        if dones.any():
            begun = {key: value for key, value in vector_infos.items() if key not in _FINAL}
            for i, row in enumerate(rows_of(begun, self.num_envs)):
                if dones[i]:
                    self.reset_infos[i] = row
        final = vector_infos.get("final_info")
        if final:
            for i, row in enumerate(rows_of(final, self.num_envs)):
                if dones[i]:
                    infos[i] = row | infos[i]


def _check_autoreset(env: VectorEnv[Any, Any, Any]) -> None:
    # ale-py's environments all write into one metadata dict: the attribute is each one's own.
    mode = getattr(env.unwrapped, "autoreset_mode", env.metadata.get("autoreset_mode"))
    if mode is not AutoresetMode.SAME_STEP:
        raise ValueError(
            f"`env` must reset in the same step, as SB3 does: autoreset_mode must be SAME_STEP, "
            f"got {mode}; build it with autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP "
            "(make_vec takes it in `vector_kwargs`, with `vectorization_mode='sync'`)"
        )
    if not getattr(env.unwrapped, "copy", True):
        raise ValueError("`env` must return new arrays each step: copy must be True, got False")


def _check_actions(env: VectorEnv[Any, Any, Any]) -> None:
    arrays = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    if not isinstance(env.single_action_space, arrays):
        raise ValueError(
            "`env` must take arrays as actions (Box, Discrete, MultiDiscrete or MultiBinary), as "
            f"SB3's algorithms give no others, got {env.single_action_space}; wrap its tasks "
            "(gymnasium.wrappers.TransformAction)"
        )


def _says_ours(vector_infos: Mapping[str, Any]) -> bool:
    """Say whether a `task_id` is a number of ours; environments of others may call theirs so."""
    told = vector_infos.get("task_id")
    return told is not None and np.issubdtype(np.asarray(told).dtype, np.integer)


def rows_of(vector_infos: Mapping[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Turn a dict of arrays into one dict for each environment.

    :param vector_infos: arrays of ``num_envs`` rows or dicts of these; where there is a mask
        ``"_key"``, only the rows it marks are dealt out; what has no row for each is left out
    :param num_envs: number of environments
    """
    rows: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    masks = {f"_{key}" for key in vector_infos}
    for key, value in vector_infos.items():
        if key in masks:
            continue
        column = _column(value, num_envs)
        if column is None:
            continue
        mask = vector_infos.get(f"_{key}")
        for i in range(num_envs) if mask is None else np.flatnonzero(mask):
            rows[i][key] = column[i]
    return rows


def row_of(batch: Any, index: int) -> Any:
    """Return one environment's part of a batch: a row, or a dict of rows."""
    if isinstance(batch, Mapping):
        return {key: row_of(value, index) for key, value in batch.items()}
    return batch[index]


def _column(value: Any, num_envs: int) -> list[Any] | None:
    if isinstance(value, Mapping):
        return list(rows_of(value, num_envs))
    if isinstance(value, np.ndarray) and value.ndim == 1 and len(value) == num_envs:
        return list(value.tolist())  # plain Python numbers
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return None
    if isinstance(value, np.ndarray | list | tuple) and len(value) == num_envs:
        return list(value)
    return None
