"""Gymnasium vector environments as SB3's VecEnv."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from sb3_moe.vec_env.observations import map_observation, select

# Methods whose result is the same for all environments, even if it happens to have as many entries
# as there are environments: it isn't split by row. SB3's HER asks the first environment for the
# rewards of any number of steps, of any environment.
_OF_ALL = ("compute_reward", "get_action_meanings")


class GymnasiumVecEnv(VecEnv):
    """Any Gymnasium vector environment with SAME_STEP autoreset, as SB3 expects it.

    If the environment reports ``info["task_id"]``, each step's info holds the ``task_id`` (and
    ``task_name``) of the task in which the step was made; at the end of an episode, that is the
    finished episode's task. Attributes and methods of a SyncVectorEnv's environments are reached
    one by one; any other vector environment is one object that answers for all its environments.

    :param env: the vector environment; its autoreset mode must be SAME_STEP
    :raises ValueError: if its autoreset mode isn't SAME_STEP
    """

    def __init__(self, env: VectorEnv) -> None:
        # ale-py's environments all write into the same metadata dict, so that an environment's own
        # attribute comes first.
        mode = getattr(env.unwrapped, "autoreset_mode", env.metadata.get("autoreset_mode"))
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(
                "`env` must be built with autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP, "
                f"as SB3 resets, got {mode}"
            )
        self.env = env
        self.spec = env.spec
        self._base = env.unwrapped
        self._envs = self._base.envs if isinstance(self._base, SyncVectorEnv) else None
        # A user's own class may write all steps into the same array; Gymnasium's and ours don't.
        gymnasiums = isinstance(self._base, SyncVectorEnv | AsyncVectorEnv) and self._base.copy
        ours = type(self._base).__module__.startswith("sb3_moe_envs.")
        self._copies = not (gymnasiums or ours)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.metadata = env.metadata
        named = self.has_attr("task_names")
        self._task_names = self.get_attr("task_names", 0)[0] if named else None
        self._task_ids = np.full(self.num_envs, -1)  # -1: no task was reported
        #: the arguments of `make_multitask_vec_env`, to build other environments like this one
        self.recipe: dict[str, Any] | None = None

    # Steps and episodes.

    def reset(self) -> VecEnvObs:
        """Start an episode in every environment."""
        chosen = self._options[0]
        if any(options != chosen for options in self._options):
            raise ValueError(f"options must be the same for all environments, got {self._options}")
        # SB3 makes consecutive seeds of one number. That number alone is passed on: with it, a
        # vector environment also seeds what it has besides environments, such as a schedule.
        obs, infos = self.env.reset(seed=self._seeds[0], options=chosen or None)
        self.reset_infos = self._rows(infos)
        self._note_tasks(infos)
        self._reset_seeds()
        self._reset_options()
        return self._kept(obs)

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all environments; those that end start again and report their last observation."""
        obs, rewards, terminated, truncated, vector_infos = self.env.step(self._actions)
        # ALE's environment gives a final observation for every row and no mask: the flags decide.
        dones = terminated | truncated
        infos = self._rows(vector_infos)
        ended = np.flatnonzero(dones).tolist()
        final = self._rows(vector_infos.get("final_info") or {}) if ended else []
        for i in ended:
            self.reset_infos[i] = infos[i]
            infos[i] = final[i]
            infos[i]["terminal_observation"] = self._kept(select(vector_infos["final_obs"], i))
        cut = truncated & ~terminated
        for info, task, is_cut in zip(infos, self._task_ids.tolist(), cut.tolist(), strict=True):
            info["TimeLimit.truncated"] = is_cut
            if task >= 0:
                task = info.setdefault("task_id", task)
                if self._task_names is not None:
                    info["task_name"] = self._task_names[task]
        self._note_tasks(vector_infos)
        return self._kept(obs), np.asarray(rewards, np.float32), dones, infos

    def close(self) -> None:
        """Close the vector environment."""
        self.env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return each environment's image."""
        frames: Any = self.env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the environments.

        :raises AttributeError: if the vector environment has no ``state_dict``
        """
        return self._shared_attribute("state_dict")()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` returned: the next step is in its episodes."""
        self._shared_attribute("load_state_dict")(state)
        self._task_ids = np.asarray(self._shared_attribute("get_task")())

    def _kept(self, obs: Any) -> Any:
        return map_observation(np.array, obs) if self._copies else obs

    def _note_tasks(self, vector_infos: Mapping[str, Any]) -> None:
        """Remember which task each environment plays, for the infos of its next step."""
        told = np.asarray(vector_infos.get("task_id"))
        if np.issubdtype(told.dtype, np.integer):  # other packages may use this key for text
            # A row without a `task_id` keeps its task: some report it only when an episode starts.
            self._task_ids = np.where(vector_infos.get("_task_id", True), told, self._task_ids)

    def _rows(self, vector_infos: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the info of each environment, without the final infos of ended episodes."""
        from sb3_moe_envs.vector.infos import unstack

        return unstack(vector_infos, self.num_envs)

    # Attributes and methods.

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of each environment, or the vector environment's for each of them."""
        chosen = list(self._get_indices(indices))
        if self._envs is not None:
            return [self._envs[i].get_wrapper_attr(attr_name) for i in chosen]
        return [self._shared_attribute(attr_name)] * len(chosen)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each environment, or of the vector environment.

        :raises AttributeError: if the environments are one object, or have tasks, and lack this
            attribute: to set it on them would change no task
        :raises ValueError: if ``indices`` selects only some environments, but they are one object
        """
        chosen = list(self._get_indices(indices))
        reaches_each = self._envs is not None and self._task_names is None
        if not reaches_each and not self.has_attr(attr_name):
            raise AttributeError(
                f"`set_attr` reaches no task: {self.env} has no attribute {attr_name!r}; give "
                "arguments with the task, as in ('CartPole-v1', {...})"
            )
        if self._envs is not None:
            for i in chosen:
                self._envs[i].set_wrapper_attr(attr_name, value)
        else:
            self._require_all("set_attr", chosen)
            setattr(self._base, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of each environment, or of the vector environment as a whole.

        A method of the vector environment is called once. It is given ``indices`` if it takes them;
        if its result has a row for each environment, each environment gets its own row.

        :raises ValueError: if ``indices`` selects only some environments, and the method has
            arguments but takes no ``indices``
        """
        chosen = list(self._get_indices(indices))
        if self._envs is not None:
            methods = self.get_attr(method_name, chosen)
            return [method(*method_args, **kwargs) for method in methods]
        method = self._shared_attribute(method_name)
        of_all = method_name in _OF_ALL
        if not of_all and len(chosen) < self.num_envs:
            if "indices" in inspect.signature(method).parameters:
                kwargs["indices"] = chosen
            elif method_args or kwargs:
                self._require_all(method_name, chosen)
        result = method(*method_args, **kwargs)
        has_rows = isinstance(result, np.ndarray | tuple | list) and len(result) == self.num_envs
        return [result[i] for i in chosen] if has_rows and not of_all else [result] * len(chosen)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Say for each environment whether it is wrapped in this class."""
        return [
            self._envs is not None and is_wrapped(self._envs[i], wrapper_class)
            for i in self._get_indices(indices)
        ]

    def _shared_attribute(self, name: str) -> Any:
        """Return an attribute of the vector environment, or of the nearest wrapper that has it."""
        layer: VectorEnv = self.env
        while isinstance(layer, VectorWrapper) and not hasattr(layer, name):
            layer = layer.env
        return getattr(layer, name)

    def _require_all(self, what: str, chosen: Sequence[int]) -> None:
        if list(chosen) != list(range(self.num_envs)):
            raise ValueError(
                f"`indices` of {what} must be None with {self.env}, got {list(chosen)}"
            )
