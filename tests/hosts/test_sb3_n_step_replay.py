"""Returns of several steps, as in SB3's ``test_n_step_replay``."""

import arena
import asked
import guests
import numpy as np
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.env_util import make_vec_env


@asked.over("n steps", guests.OFF_POLICY)
def test_it_learns_from_returns_of_several_steps(algorithm, placement):
    env = make_vec_env(lambda: arena.default_env(algorithm, "MoeMlpPolicy"), n_envs=2)
    model = guests.make(algorithm, placement, env=env, model={"n_steps": 3, "gamma": 0.9})
    assert type(model.replay_buffer) is NStepReplayBuffer
    assert (model.replay_buffer.n_steps, model.replay_buffer.gamma) == (3, 0.9)
    arena.train(model)
    losses = [v for key, v in model.logger.name_to_value.items() if "loss" in key]
    assert losses
    assert np.isfinite(losses).all()
