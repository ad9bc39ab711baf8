"""Vector environments of one task in this process: stepped one by one, or of any other kind."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from sb3_moe_envs.checks import (
    Env,
    Info,
    Options,
    ResetResult,
    Seed,
    StepResult,
    seed_of_each,
)
from sb3_moe_envs.snapshot import gives_state, own_state, restore, snapshot
from sb3_moe_envs.spaces.observations import row_of
from sb3_moe_envs.vector.infos import Rows, stack, unstack


class InTurnVectorEnv(SyncVectorEnv):
    """A `SyncVectorEnv` with SAME_STEP autoreset.

    Infos may differ in type and shape. Observations are not copied, since each step returns a new
    array of them anyway.

    :param env_fns: build the environments
    """

    envs: list[Any]

    def __init__(self, env_fns: Sequence[Callable[[], Env]]) -> None:
        super().__init__(env_fns, autoreset_mode=AutoresetMode.SAME_STEP)
        # Gymnasium writes the autoreset mode into a dict that all environments of a class share.
        self.metadata = {**self.metadata}

    def reset(self, *, seed: Seed = None, options: Options = None) -> ResetResult:
        """Start an episode in every environment.

        :param seed: seeds environment i with `seed + i`; a sequence gives each its own
        """
        seeds = seed_of_each(seed, self.num_envs)
        each = zip(self.envs, seeds, strict=True)
        results = [env.reset(seed=own, options=options) for env, own in each]
        observations, infos = zip(*results, strict=True)
        return self._batch(observations), stack(dict(enumerate(infos)), self.num_envs)

    def step(  # type: ignore[override]  # Gymnasium's returns unbound type variables
        self, actions: Any
    ) -> StepResult:
        """Step each environment with its action, of shape (num_envs, ...)."""
        return self.play(actions).stacked()

    def play(self, actions: Any) -> Rows:
        """Step each environment with its action, and return the results before they are stacked."""
        steps = []
        infos = dict[int, Info]()
        finals = dict[int, tuple[Any, Info]]()
        each = zip(self.envs, iterate(self.action_space, actions), strict=True)
        for row, (env, action) in enumerate(each):
            obs, reward, ended, cut, info = env.step(action)
            if ended or cut:
                finals[row] = obs, info
                obs, info = env.reset()
            steps.append((obs, reward, ended, cut))
            if info:
                infos[row] = info
        observations, rewards, terminated, truncated = zip(*steps, strict=True)
        return Rows(self._batch(observations), rewards, terminated, truncated, infos, finals)

    def _batch(self, observations: Sequence[Any]) -> Any:
        space = self.single_observation_space
        return concatenate(space, observations, create_empty_array(space, self.num_envs))


class Group:
    """A vector environment of this process, of any kind.

    :param env: with SAME_STEP autoreset
    """

    def __init__(self, env: VectorEnv) -> None:
        self.env: Any = env
        self.num_envs = env.num_envs
        #: whether separate calls begin and end a step, so that other groups can step meanwhile
        self.begins = hasattr(env, "step_async")

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function with the vector environment as its first argument."""
        return function(self.env, *args)

    def begin(self, actions: Any) -> None:
        """Begin a step; only for groups with :attr:`begins`."""
        self.env.step_async(actions)

    def finish(self, actions: Any) -> Rows:
        """Finish the step that :meth:`begin` began, or take a whole step without :attr:`begins`."""
        if isinstance(self.env, InTurnVectorEnv):
            return self.env.play(actions)
        return _rows_of(self.env, self.env.step_wait() if self.begins else self.env.step(actions))

    def close(self) -> None:
        """Close the vector environment."""
        self.env.close()


def _rows_of(env: Any, result: Any) -> Rows:
    obs, rewards, terminated, truncated, infos = result
    if not infos:
        return Rows(obs, rewards, terminated, truncated, {}, {})
    last = unstack(infos.get("final_info") or {}, env.num_envs)
    finals = {
        row: (row_of(infos["final_obs"], row), last[row])
        for row in np.flatnonzero(terminated | truncated).tolist()
    }
    by_row = dict(enumerate(unstack(infos, env.num_envs)))
    return Rows(obs, rewards, terminated, truncated, by_row, finals)


def start(env: VectorEnv, seed: int | None, options: Options) -> tuple[Any, list[Info]]:
    """Start an episode in every environment; return observations, and each one's info."""
    obs, infos = env.reset(seed=seed, options=options)
    return obs, unstack(infos, env.num_envs)


def states_of(env: Any) -> list[Any]:
    """Return a state for each environment, None for one that can't give its state.

    If the vector environment itself gives a state, that is the state of each.
    """
    base: Any = env.unwrapped
    if gives_state(base):
        return [own_state(base)] * base.num_envs
    return [*map(snapshot, base.envs)] if isinstance(base, SyncVectorEnv) else [None]


def restore_states(env: Any, states: Sequence[Any]) -> None:
    """Bring each environment into a state that :func:`states_of` returned."""
    base = env.unwrapped
    if gives_state(base):
        base.load_state_dict(states[0])
    else:
        base.envs[:] = [restore(*each) for each in zip(base.envs, states, strict=True)]
