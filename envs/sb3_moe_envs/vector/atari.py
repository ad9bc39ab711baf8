"""Atari games through ale-py's own vector environment, with the preprocessing that SB3 uses."""

import re
from typing import Any

import numpy as np
from gymnasium.utils import EzPickle
from gymnasium.vector import AutoresetMode

from sb3_moe_envs.checks import (
    EnvStep,
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


class AtariVectorEnv(BatchedVectorEnv):
    """Parallel environments of one Atari game, run by ale-py's threads.

    Observations are (4, 84, 84), uint8. As in SB3's ``make_atari_env``, a game starts with up to 30
    no-ops and FIRE, an action lasts four frames, the last two of them are joined by their maximum,
    images are gray, 84 x 84 and stacked by four, rewards are clipped to their sign, and each life
    is an episode. When a life is lost, the game goes on, without the no-op and FIRE that SB3 plays
    then. ``info["final_info"]`` holds the game's ``score`` so far, whether it is ``game_over``, and
    ``of_atari``, a mark that tells evaluations that this ``score`` is an Atari game's.

    :param game: a ROM's name, ``"space_invaders"`` or ``"SpaceInvaders"``
    :param num_envs: how many, at least 1
    :param render_mode: None or ``"rgb_array"``: the latest gray frame
    :param full_action_space: all 18 actions, the same in every game; False: the game's own
    :param episodic_life: end an episode when a life is lost
    :param clip_reward: return only the sign of each reward
    :param noop_max: largest number of no-ops at the start of a game
    :param frame_skip: frames per action
    :param max_frames: frames after which a game is truncated
    :param repeat_action_probability: probability of repeating the last action (sticky actions)
    :param num_threads: number of ale-py's threads; 0: ale-py chooses
    :raises ValueError: if the game is unknown or a number out of range
    :raises ImportError: if ale-py isn't installed
    """

    def __init__(
        self,
        game: str,
        num_envs: int = 1,
        *,
        render_mode: str | None = None,
        full_action_space: bool = True,
        episodic_life: bool = True,
        clip_reward: bool = True,
        noop_max: int = 30,
        frame_skip: int = 4,
        max_frames: int = 108_000,
        repeat_action_probability: float = 0.0,
        num_threads: int = 0,
    ) -> None:
        frame_skip = whole("frame_skip", frame_skip)
        super().__init__(num_envs, render_mode, render_fps=60 // frame_skip)
        self.game = _rom_name(game)
        self.episodic_life = episodic_life
        self.clip_reward = clip_reward
        self._full_action_space = full_action_space
        from ale_py.vector_env import AtariVectorEnv as Ale

        # ale-py's own `episodic_life` starts a new game at each lost life, and its `life_loss_info`
        # gives a stale final observation: so `step_wait` detects lost lives itself. It also clips
        # the rewards, since scores need the unclipped ones.
        self._ale = Ale(
            self.game,
            self.num_envs,
            autoreset_mode=AutoresetMode.SAME_STEP,
            reward_clipping=False,
            full_action_space=full_action_space,
            noop_max=whole("noop_max", noop_max, minimum=0),
            frameskip=frame_skip,
            max_num_frames_per_episode=whole("max_frames", max_frames),
            repeat_action_probability=repeat_action_probability,
            num_threads=whole("num_threads", num_threads, minimum=0),
        )
        self._set_spaces(self._ale.single_observation_space, self._ale.single_action_space)
        #: scores of the running games so far, (num_envs,)
        self.scores = np.zeros(self.num_envs)
        self._lives = np.zeros(self.num_envs, np.int32)

    def reset(self, *, seed: Seed = None, options: Options = None) -> ResetResult:
        """Start a game in every environment.

        :param seed: seeds environment i with ``seed + i``; a sequence gives each its own
        """
        # With the seed -1, a game of ale-py goes on with its current random numbers.
        seeds = [-1 if s is None else s % 2**31 for s in seed_of_each(seed, self.num_envs)]
        self._observations, info = self._ale.reset(seed=np.array(seeds))
        self.scores[:] = 0
        self._lives = info["lives"].copy()
        return self._observations, {}

    def step_async(self, actions: np.ndarray) -> None:
        """Let ale-py's threads begin a step."""
        self._require_reset()
        # `_choices` refuses invalid actions: given one, ale-py would wait forever.
        self._ale.send(self._choices(actions))

    def step_wait(self) -> StepResult:
        """Wait for the step that :meth:`step_async` began."""
        observations, rewards, terminated, truncated, info = self._ale.recv()
        game_over = terminated | truncated
        self.scores += rewards
        if self.episodic_life:
            terminated = terminated | ((info["lives"] < self._lives) & ~game_over)
        finals = {}
        for i in np.flatnonzero(terminated | truncated).tolist():
            over = bool(game_over[i])
            # A lost life doesn't interrupt the game: the next episode starts where this one ends.
            last = info["final_obs"][i] if over else observations[i].copy()
            finals[i] = last, {"score": self.scores[i], "game_over": over, "of_atari": True}
        self.scores[game_over] = 0
        self._lives = info["lives"].copy()
        self._observations = observations
        rewards = np.sign(rewards) if self.clip_reward else rewards
        infos = stack_final(finals, self.num_envs)
        return observations, rewards.astype(np.float64), terminated, truncated, infos

    def get_action_meanings(self) -> list[str]:
        """Name the actions."""
        if self._full_action_space:
            return [*_ale_py().Action.__members__]
        game = _ale_py().ALEInterface()
        game.loadROM(_ale_py().roms.get_rom_path(self.game))
        return [action.name for action in game.getMinimalActionSet()]

    @staticmethod
    def draw(observation: np.ndarray) -> np.ndarray:
        """Return the latest frame of one observation as an image."""
        return np.repeat(observation[-1][:, :, None], 3, axis=2)

    def close_extras(self, **kwargs: Any) -> None:
        """Stop ale-py's threads."""
        self._ale.close()


class AtariEnv(SingleEnv, EzPickle):
    """One Atari game, preprocessed as :class:`AtariVectorEnv` does.

    :param game: a ROM's name, ``"space_invaders"`` or ``"SpaceInvaders"``
    :param render_mode: None or ``"rgb_array"``
    :param kwargs: other arguments of :class:`AtariVectorEnv`
    """

    def __init__(self, game: str, render_mode: str | None = None, **kwargs: Any) -> None:
        EzPickle.__init__(self, game, render_mode, **kwargs)
        super().__init__(AtariVectorEnv(game, render_mode=render_mode, **kwargs))

    def get_action_meanings(self) -> list[str]:
        """Name the actions."""
        return self._vector.get_action_meanings()

    def step(self, action: Any) -> EnvStep:
        """Take one action.

        ``info`` always holds the score so far, since a time limit may end the game at any step.
        """
        obs, reward, terminated, truncated, info = super().step(action)
        score = {"score": float(self._vector.scores[0]), "game_over": False, "of_atari": True}
        return obs, reward, terminated, truncated, score | info


def _rom_name(game: str) -> str:
    roms = _ale_py().roms.get_all_rom_ids()
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", game).lower()
    if name not in roms:
        raise ValueError(f"`game` must be one of {sorted(roms)}, got {game!r}")
    return name


def _ale_py() -> Any:
    # Imported here, so that importing sb3_moe_envs doesn't load ale-py.
    require_extra("an Atari game", "ale_py")
    import ale_py
    import ale_py.roms

    return ale_py
