"""MinAtar's games, played by gymnax: one jitted step for many environments."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sb3_moe_envs.checks import (
    Info,
    Options,
    ResetResult,
    Seed,
    State,
    StepResult,
    require_extra,
    seed_of_each,
)
from sb3_moe_envs.vector.batched import BatchedVectorEnv, SingleEnv
from sb3_moe_envs.vector.infos import stack_final

ACTIONS = ("nothing", "left", "up", "right", "down", "fire")
GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
#: largest number of no-ops at the start of an episode, as for Atari
NO_OP_MAX = 30


class MinAtarVectorEnv(BatchedVectorEnv):
    """Parallel environments of one MinAtar game: one compiled call steps, ends and restarts them.

    Autoreset is SAME_STEP: at the end of an episode the observation is the next episode's first,
    and ``info["final_obs"][i]`` is the last of the one that ended. Each environment has its own
    random key: with the seed ``s``, environment ``i`` plays the same as a single environment with
    the seed ``s + i``.

    :param game: one of :data:`GAMES`
    :param num_envs: how many, at least 1
    :param render_mode: None or ``"rgb_array"``: one color per channel
    :param use_minimal_action_set: the game's own actions in place of all six
    :param params: gymnax parameters to change, such as ``{"max_steps_in_episode": 500}``
    :param no_op_max: largest number of no-ops at the start of an episode; the number is drawn with
        the environment's key. No-ops count neither as steps nor for the return; if they end an
        episode, the next one starts. With 0, all episodes of SpaceInvaders begin alike
    :raises ValueError: if an argument isn't one that gymnax knows, or is out of range
    :raises ImportError: if gymnax isn't installed
    """

    def __init__(
        self,
        game: str,
        num_envs: int = 1,
        *,
        render_mode: str | None = None,
        use_minimal_action_set: bool = False,
        params: Mapping[str, Any] | None = None,
        no_op_max: int = NO_OP_MAX,
    ) -> None:
        super().__init__(num_envs, render_mode, render_fps=10)
        # Imported here, so that importing sb3_moe_envs doesn't load jax.
        require_extra("a MinAtar game", "gymnax", "jax", "six")
        from sb3_moe_envs.vector.gymnax_program import compiled

        given = tuple((params or {}).items())
        self._program = compiled(game, use_minimal_action_set, given, no_op_max)
        self._size = self._program.size_for(self.num_envs)
        self._set_spaces(self._program.observation_space, self._program.action_space)
        self._keys: Any = None
        self._states: Any = None
        self._outputs: list[Any] = []

    def reset(self, *, seed: Seed = None, options: Options = None) -> ResetResult:
        """Start an episode in every environment.

        :param seed: seeds environment i with ``seed + i``; a sequence gives each its own
        """
        self._keys, self._states, self._observations = self._program.reset(self._next_keys(seed))
        return self._own(self._observations), {}

    def step_async(self, actions: np.ndarray) -> None:
        """Let jax begin a step."""
        self._require_reset()
        # `_choices` refuses actions out of range: jax would clamp them silently.
        own = self._choices(actions).astype(np.int32)
        self._keys, self._states, self._observations, *self._outputs = self._program.step(
            self._keys, self._states, self._filled(own)
        )

    def step_wait(self) -> StepResult:
        """Wait for the step that :meth:`step_async` began."""
        last, rewards, terminated, truncated = self._outputs
        observations = self._own(self._observations)
        terminated = self._own(terminated)
        truncated = self._own(truncated)
        ended = (terminated | truncated).nonzero()[0].tolist()
        infos: Info = {}
        if ended:
            last = self._own(last)
            infos = stack_final({row: (last[row], {}) for row in ended}, self.num_envs)
        return observations, self._own(rewards, np.float64), terminated, truncated, infos

    def state_dict(self) -> State:
        """Return everything that the next steps depend on, with numpy arrays in place of jax's."""
        running = self._keys, self._states, self._observations
        return {
            "running": self._program.map(self._own, running),
            "np_random": self.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a state that :meth:`state_dict` returned.

        :param state: of the same number and kind of environments
        """
        self.np_random.bit_generator.state = state["np_random"]
        running = self._program.map(self._filled, state["running"])
        self._keys, self._states, self._observations = running

    def _next_keys(self, seed: Seed) -> Any:
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))  # seeds `np_random`
        elif seed is None and self._keys is not None:
            return self._keys
        seeds = seed_of_each(seed, self.num_envs)
        numbers = [int(self.np_random.integers(2**31)) if s is None else s for s in seeds]
        # The same keys as jax.random.PRNGKey(n) returns, without a call for each number n.
        keys = [(n >> 32 & 0xFFFFFFFF, n & 0xFFFFFFFF) for n in numbers]
        return self._filled(np.array(keys, np.uint32))

    def _filled(self, rows: np.ndarray) -> np.ndarray:
        """Pad rows of these environments by repeating the last: the added ones do the same."""
        return rows.take(np.arange(self._size), axis=0, mode="clip")

    def _own(self, rows: Any, dtype: Any = None) -> np.ndarray:
        """Copy the rows of these environments from a jax array, without those that pad it."""
        return np.array(np.asarray(rows)[: self.num_envs], dtype)

    def get_action_meanings(self) -> list[str]:
        """Name the actions."""
        return [ACTIONS[action] for action in self._program.actions]


class MinAtarEnv(SingleEnv):
    """One MinAtar game; an observation is (10, 10, channels) zeros and ones, uint8.

    Actions are those of :data:`ACTIONS`.

    :param game: one of :data:`GAMES`
    :param render_mode: None or ``"rgb_array"``
    :param kwargs: other arguments of :class:`MinAtarVectorEnv`
    :raises ValueError: if an argument is unknown
    """

    def __init__(self, game: str, render_mode: str | None = None, **kwargs: Any) -> None:
        super().__init__(MinAtarVectorEnv(game, render_mode=render_mode, **kwargs))

    def get_action_meanings(self) -> list[str]:
        """Name the actions."""
        return self._vector.get_action_meanings()

    def state_dict(self) -> State:
        """Return everything that the next steps depend on, as numpy arrays and plain values."""
        return {
            "vector": self._vector.state_dict(),
            "observation": self._observation,
            "next_start": self._next_start,
            "np_random": self.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a state that :meth:`state_dict` of the same kind of environment returned."""
        self._vector.load_state_dict(state["vector"])
        self._observation = state["observation"]
        self._next_start = state["next_start"]
        self.np_random.bit_generator.state = state["np_random"]
