"""SB3's own callbacks around a model, as in its ``test_callbacks``."""

import arena
import asked
import guests
import numpy as np
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize


def playing(algorithm):
    return Monitor(arena.default_env(algorithm, "MoeMlpPolicy"))


@asked.over("callbacks")
def test_callbacks_run_listed_and_nested(algorithm, placement, tmp_path):
    model = guests.make(algorithm, placement)
    evaluation = EvalCallback(
        playing(algorithm),
        callback_on_new_best=StopTrainingOnRewardThreshold(reward_threshold=1e9),
        callback_after_eval=StopTrainingOnNoModelImprovement(99),
        best_model_save_path=str(tmp_path),
        log_path=str(tmp_path),
        eval_freq=8,
        n_eval_episodes=1,
        verbose=0,
    )
    events = CheckpointCallback(1, str(tmp_path), name_prefix="event")
    every = EveryNTimesteps(8, events)
    callbacks = CallbackList(
        [evaluation, every, LogEveryNTimesteps(8), StopTrainingOnMaxEpisodes(99)]
    )
    model.learn(16, callback=callbacks, log_interval=None)
    assert events.locals["new_obs"] is callbacks.locals["new_obs"]
    assert every.num_timesteps == every.n_calls == model.num_timesteps == 16
    assert evaluation.callback.parent is evaluation
    best = type(model).load(tmp_path / "best_model")
    event = type(model).load(tmp_path / "event_16_steps")
    for loaded in (best, event):
        assert loaded.policy.state_dict().keys() == model.policy.state_dict().keys()
    seen = []
    model.learn(16, callback=lambda scope, _: seen.append("self" in scope) or True)
    assert seen == [True] * 16


@asked.over("callbacks", guests.ON_POLICY)
def test_episodes_of_several_environments_are_counted(algorithm, placement):
    env = make_vec_env(lambda: playing(algorithm), n_envs=2)
    model = guests.make(algorithm, placement, env=env)
    stop = StopTrainingOnMaxEpisodes(max_episodes=1)
    model.learn(64, callback=[stop])
    # One of six steps in each of two environments.
    assert (stop.n_episodes, model.num_timesteps) == (2, 12)


class Cancel(BaseCallback):
    """Stops at once, with one of several ways to say False."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def _on_step(self):
        return self.answer


NO = {"python": False, "numpy": np.bool_(False), "torch": th.tensor(False)}


@asked.over("cancelled", ["A2C", "SAC"], answer=NO)
def test_a_run_stops_where_a_callback_says_so(algorithm, placement, answer):
    callback = Cancel(answer)
    guests.make(algorithm, placement).learn(10, callback=callback)
    assert callback.n_calls == 1


@asked.over("success", ["DQN"])
def test_an_evaluation_counts_successes(algorithm, placement, tmp_path):
    env = guests.bits(discrete=True, n=2)
    her = {"replay_buffer_class": HerReplayBuffer}
    model = guests.make(algorithm, placement, "MoeMultiInputPolicy", env, model=her)
    copies = DummyVecEnv([lambda: Monitor(guests.bits(discrete=True, n=2))] * 2)
    evaluation = EvalCallback(
        copies, eval_freq=8, n_eval_episodes=4, log_path=str(tmp_path), verbose=0
    )
    model.learn(16, callback=evaluation)
    assert np.load(tmp_path / "evaluations.npz")["successes"].shape == (2, 4)


@asked.over("checkpoint", ["DQN", "SAC"])
def test_a_checkpoint_holds_the_replay_buffer_and_the_normaliser(algorithm, placement, tmp_path):
    plain = DummyVecEnv([lambda: playing(algorithm)])
    model = guests.make(algorithm, placement, env=VecNormalize(plain))
    saving = CheckpointCallback(
        16, str(tmp_path), save_replay_buffer=True, save_vecnormalize=True, name_prefix="m"
    )
    model.learn(16, callback=saving)
    loaded = type(model).load(tmp_path / "m_16_steps")
    loaded.load_replay_buffer(tmp_path / "m_replay_buffer_16_steps.pkl")
    # A callback sees each step before it is stored.
    assert loaded.replay_buffer.size() == 15
    normalizer = VecNormalize.load(str(tmp_path / "m_vecnormalize_16_steps.pkl"), plain)
    np.testing.assert_array_equal(normalizer.obs_rms.mean, model.env.obs_rms.mean)
