"""The same images with their pixels elsewhere: a new task for a network that reads them flat."""

from __future__ import annotations

from random import Random
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from sb3_moe_envs.minatar import MinAtarEnv, MinAtarVectorEnv
from sb3_moe_envs.numbers import whole
from sb3_moe_envs.tasks import Task
from sb3_moe_envs.vector.batched import View, ViewEnv, ViewVectorEnv


class Shuffle(View):
    """A fixed permutation of an image's pixels; the channels of a pixel stay together.

    :param space: of the images, (height, width, channels)
    :param number: which permutation, drawn from it; 0 leaves images as they are
    :raises TypeError: if observations are no images
    :raises ValueError: if there is no permutation of that number
    """

    def __init__(self, space: gym.Space[Any], number: int) -> None:
        if not isinstance(space, spaces.Box) or len(space.shape) != 3:
            raise TypeError(f"observations must be a Box (height, width, channels), got {space}")
        low, high = (end.reshape(-1, space.shape[-1]) for end in (space.low, space.high))
        if (low != low[0]).any() or (high != high[0]).any():
            raise TypeError(f"observations must have the same bounds at every pixel, got {space}")
        self.observation_space = space
        # Python promises the numbers of `random()` for a seed, and no more than those.
        random = Random(whole("shuffle", number, 0))
        keys = [random.random() for _ in low]
        self.order = np.array(sorted(range(len(low)), key=keys.__getitem__))
        if number == 0:
            self.order.sort()

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Show images, (..., height, width, channels), with their pixels elsewhere."""
        *rest, height, width, channels = observation.shape
        flat = observation.reshape(*rest, height * width, channels)
        shown: np.ndarray = flat[..., self.order, :].reshape(observation.shape)
        return shown


class ShufflePixels(ViewEnv, RecordConstructorArgs):
    """Show an environment's images with their pixels elsewhere, the same way all the time.

    :param env: its observations are images (height, width, channels)
    :param shuffle: number of the permutation, at least 0; 0 leaves images as they are
    """

    def __init__(self, env: gym.Env[np.ndarray, Any], *, shuffle: int = 0) -> None:
        RecordConstructorArgs.__init__(self, shuffle=shuffle)
        ViewEnv.__init__(self, env, Shuffle(env.observation_space, shuffle))


def breakout(render_mode: str | None = None, *, shuffle: int = 0) -> gym.Env[Any, Any]:
    """Build MinAtar's Breakout with its pixels elsewhere.

    :param shuffle: number of the permutation
    """
    return ShufflePixels(MinAtarEnv("Breakout", render_mode), shuffle=shuffle)


def breakouts(
    num_envs: int = 1, *, render_mode: str | None = None, shuffle: int = 0
) -> ViewVectorEnv:
    """Build Breakouts of MinAtar with their pixels elsewhere that step together."""
    vector = MinAtarVectorEnv("Breakout", num_envs, render_mode=render_mode)
    return ViewVectorEnv(vector, Shuffle(vector.single_observation_space, shuffle))


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
