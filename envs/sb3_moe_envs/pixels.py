"""The same pictures with their pixels elsewhere: a new task for a network that reads them flat."""

from __future__ import annotations

from random import Random
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv

from sb3_moe_envs.numbers import whole
from sb3_moe_envs.tasks import Task
from sb3_moe_envs.vector.shown import ShownWorld


class Shuffle:
    """A fixed permutation of a picture's pixels; the channels of a pixel stay together.

    :param space: of the pictures, (height, width, channels)
    :param number: which permutation, drawn from it; 0 leaves pictures as they are
    :raises TypeError: if observations are no pictures
    :raises ValueError: if there is no permutation of that number
    """

    def __init__(self, space: gym.Space[Any], number: int) -> None:
        if not isinstance(space, spaces.Box) or len(space.shape) != 3:
            raise TypeError(f"observations must be a Box (height, width, channels), got {space}")
        low, high = (end.reshape(-1, space.shape[-1]) for end in (space.low, space.high))
        if (low != low[0]).any() or (high != high[0]).any():
            raise TypeError(f"observations must have the same bounds at every pixel, got {space}")
        pixels = len(low)
        # Python promises the numbers of `random()` for a seed, and no more than those.
        random = Random(whole("shuffle", number, 0))
        keys = [random.random() for _ in range(pixels)]
        order = sorted(range(pixels), key=keys.__getitem__) if number else range(pixels)
        self.order = np.array(order)

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Show pictures, (..., height, width, channels), with their pixels elsewhere."""
        *_, height, width, channels = pictures.shape
        flat = pictures.reshape(*pictures.shape[:-3], height * width, channels)
        shown: np.ndarray = flat[..., self.order, :].reshape(pictures.shape)
        return shown


class ShufflePixels(gym.ObservationWrapper[np.ndarray, Any, np.ndarray], RecordConstructorArgs):
    """Show an environment's pictures with their pixels elsewhere, the same way all the time.

    :param env: whose observations are pictures (height, width, channels)
    :param shuffle: number of the permutation, like the next of :class:`Shuffle`
    """

    def __init__(self, env: gym.Env[np.ndarray, Any], *, shuffle: int = 0) -> None:
        RecordConstructorArgs.__init__(self, shuffle=shuffle)
        gym.ObservationWrapper.__init__(self, env)
        self._shuffle = Shuffle(env.observation_space, shuffle)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Show a picture."""
        return self._shuffle(observation)


class ShufflePixelsVector(ShownWorld):
    """Show the pictures of all copies with their pixels elsewhere, the same way.

    :param env: a :class:`~sb3_moe_envs.vector.world.VectorWorld`
    :param shuffle: number of the permutation
    """

    def __init__(
        self, env: VectorEnv[np.ndarray, np.ndarray, np.ndarray], *, shuffle: int = 0
    ) -> None:
        super().__init__(env)
        self._shuffle = Shuffle(env.single_observation_space, shuffle)

    def shown(self, observations: np.ndarray) -> np.ndarray:
        """Show pictures."""
        return self._shuffle(observations)


def breakout(render_mode: str | None = None, *, shuffle: int = 0) -> gym.Env[Any, Any]:
    """Build MinAtar's Breakout with its pixels elsewhere.

    :param shuffle: number of the permutation
    """
    from sb3_moe_envs.minatar import MinAtarEnv

    return ShufflePixels(MinAtarEnv("Breakout", render_mode), shuffle=shuffle)


def breakouts(
    num_envs: int = 1, *, render_mode: str | None = None, shuffle: int = 0
) -> ShufflePixelsVector:
    """Build copies of MinAtar's Breakout with their pixels elsewhere that step together."""
    from sb3_moe_envs.minatar import MinAtarVectorEnv

    world = MinAtarVectorEnv("Breakout", num_envs, render_mode=render_mode)
    return ShufflePixelsVector(world, shuffle=shuffle)


def shuffled_breakouts(num_tasks: int, first: int = 0) -> list[Task]:
    """Return Breakouts each with another order of the pixels, equally hard for a flat network.

    :param num_tasks: how many
    :param first: number of the first one's permutation; 0 is the plain game
    :raises ValueError: if a number is out of range
    """
    first = whole("first", first, 0)
    numbers = range(first, first + whole("num_tasks", num_tasks))
    env_id = "sb3_moe_envs:SB3MoE/ShuffledBreakout-v0"
    return [Task(f"Breakout{k}", env_id, {"shuffle": k}) for k in numbers]
