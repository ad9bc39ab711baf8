"""Environments of EnvPool, which are written in C++: Meta-World, MuJoCo, Atari and others."""

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import EzPickle

from sb3_moe_envs.checks import (
    SUCCESS_KEYS,
    Info,
    Options,
    ResetResult,
    Seed,
    StepResult,
    require_extra,
    seed_of_each,
    whole,
)
from sb3_moe_envs.vector.batched import BatchedVectorEnv, SingleEnv
from sb3_moe_envs.vector.infos import stack_final


class EnvPoolVectorEnv(BatchedVectorEnv):
    """Parallel environments of one of EnvPool's ids, with SAME_STEP autoreset.

    EnvPool itself starts the next episode one step later: therefore the environments whose episode
    has ended, and only those, are stepped once more. Infos hold whether a step was a success, if
    EnvPool reports it. EnvPool gives no states, so that a resumed run starts new episodes. Images
    are not supported.

    :param env_id: one of ``envpool.list_all_envs()``, such as ``"MetaWorld/Reach-v3"``
    :param num_envs: how many, at least 1
    :param render_mode: must be None
    :param num_threads: number of EnvPool's threads; 0: EnvPool chooses
    :param config: other options of ``envpool.make``
    :raises ValueError: if ``env_id`` is unknown, or ``render_mode`` is not None
    :raises ImportError: if envpool isn't installed
    """

    def __init__(
        self,
        env_id: str,
        num_envs: int = 1,
        *,
        render_mode: str | None = None,
        num_threads: int = 1,
        **config: Any,
    ) -> None:
        if env_id not in _envpool().list_all_envs():
            raise ValueError(f"`env_id` must be one of envpool.list_all_envs(), got {env_id!r}")
        if render_mode is not None:
            raise ValueError(
                f"`render_mode` must be None for EnvPool, got {render_mode!r}: watch the agent in "
                "the same environment of another package"
            )
        super().__init__(num_envs, None, render_fps=30)
        self.env_id = env_id
        self._config = {"num_threads": whole("num_threads", num_threads, minimum=0), **config}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # EnvPool warns of bounds that it rounds itself
            spec = _envpool().make_spec(env_id, **self._config)
            seen = spec.gymnasium_observation_space
            actions = spec.gymnasium_action_space
        self._set_spaces(_in_float32(seen), actions)
        self._pool: Any = None

    def reset(self, *, seed: Seed = None, options: Options = None) -> ResetResult:
        """Start an episode in every environment.

        :param seed: seeds environment i with ``seed + i``; a sequence gives each its own
        """
        if self._pool is None or seed is not None:
            self._seed(seed)
        observations, _ = self._pool.reset()
        self._observations = self._cast(observations)
        return self._observations, {}

    def _seed(self, seed: Seed) -> None:
        """Build the environments, since EnvPool takes seeds only when it builds them."""
        drawn = np.random.SeedSequence().generate_state(self.num_envs)
        given = zip(seed_of_each(seed, self.num_envs), drawn.tolist(), strict=True)
        seeds = [(own if one is None else one) % 2**31 for one, own in given]
        self.close_extras()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._pool = _envpool().make(
                self.env_id,
                env_type="gymnasium",
                num_envs=self.num_envs,
                seed=seeds,
                **self._config,
            )
            _ = self._pool.observation_space  # EnvPool makes it at its first use, with warnings

    def step_async(self, actions: np.ndarray) -> None:
        """Let EnvPool's threads begin a step."""
        self._require_reset()
        space = self.single_action_space
        if isinstance(space, spaces.Discrete):
            actions = self._choices(actions)
        self._actions = np.asarray(actions, dtype=space.dtype)
        self._pool.send(self._actions)

    def step_wait(self) -> StepResult:
        """Wait for the step, and start the next episode where one has ended."""
        observations, rewards, terminated, truncated, info = self._pool.recv()
        # EnvPool returns the environments in the order in which they got ready.
        order = np.argsort(info["env_id"])
        observations = self._cast(observations)[order]
        rewards, terminated, truncated = (each[order] for each in (rewards, terminated, truncated))
        said = {key: info[key][order].astype(np.float64) for key in SUCCESS_KEYS if key in info}
        goes_on = ~(terminated | truncated)
        infos: Info = said | {f"_{key}": goes_on for key in said}
        ended = np.flatnonzero(~goes_on)
        if len(ended):
            finals = {
                i: (observations[i].copy(), {key: own[i] for key, own in said.items()})
                for i in ended.tolist()
            }
            infos |= stack_final(finals, self.num_envs)
            # One more step starts their next episodes.
            first, *_, info = self._pool.step(self._actions[ended], ended.astype(np.int32))
            observations[ended] = self._cast(first)[np.argsort(info["env_id"])]
        self._observations = observations
        return observations, rewards.astype(np.float64), terminated, truncated, infos

    def _cast(self, observations: np.ndarray) -> np.ndarray:
        return observations.astype(self.single_observation_space.dtype, copy=False)

    def close_extras(self, **kwargs: Any) -> None:
        """Stop EnvPool's threads."""
        if self._pool is not None:
            self._pool.close()


class EnvPoolEnv(SingleEnv, EzPickle):
    """One environment of EnvPool.

    :param env_id: one of ``envpool.list_all_envs()``
    :param render_mode: must be None
    :param config: other arguments of :class:`EnvPoolVectorEnv`
    """

    def __init__(self, env_id: str, render_mode: str | None = None, **config: Any) -> None:
        EzPickle.__init__(self, env_id, render_mode, **config)
        super().__init__(EnvPoolVectorEnv(env_id, render_mode=render_mode, **config))


def _envpool() -> Any:
    # Imported here, so that importing sb3_moe_envs doesn't load envpool.
    require_extra("an environment of EnvPool", "envpool")
    import envpool

    return envpool


def _in_float32(space: Any) -> spaces.Space:
    """Return a space with float32, which learners use, in place of float64."""
    if isinstance(space, spaces.Box) and space.dtype == np.float64:
        low = space.low.astype(np.float32)
        high = space.high.astype(np.float32)
        return spaces.Box(low, high, dtype=np.float32)
    if not isinstance(space, spaces.Box | spaces.Discrete):
        raise ValueError(f"spaces of EnvPool must be a Box or Discrete, got {space}")
    return space
