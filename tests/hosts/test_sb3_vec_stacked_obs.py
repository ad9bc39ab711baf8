"""Stacked frames; SB3's ``test_vec_stacked_obs`` has what the stacking itself does."""

import arena
import asked
import guests
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

FRAMES = {
    "vector": (arena.FLAT, "last", (15,)),
    "matrix": (spaces.Box(-1, 1, (4, 5), np.float32), "first", (12, 5)),
    "picture, channels last": (spaces.Box(0, 255, (36, 40, 1), np.uint8), "last", (3, 36, 40)),
    "picture, channels first": (spaces.Box(0, 255, (1, 36, 40), np.uint8), "first", (3, 36, 40)),
}


@asked.over("stacked", frames=FRAMES)
def test_it_takes_stacked_vectors_and_pictures(algorithm, placement, frames):
    space, order, shape = frames
    env = DummyVecEnv([lambda: arena.Arena(space, arena.actions_of(algorithm))])
    env = VecFrameStack(env, n_stack=3, channels_order=order)
    alias = "MoeCnnPolicy" if len(space.shape) == 3 else "MoeMlpPolicy"
    model = guests.make(algorithm, placement, alias, env)
    # As the policy sees it, pictures' channels first.
    assert model.observation_space.shape == shape
    arena.train(model)
    action, _ = model.predict(model.get_env().reset())
    assert model.action_space.contains(action[0])
