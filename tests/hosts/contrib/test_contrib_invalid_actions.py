"""Masks, as in sb3-contrib's ``test_invalid_actions``."""

import arena
import contrib_asked as asked
import contrib_guests as guests
import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from sb3_contrib.common.envs import (
    InvalidActionEnvDiscrete,
    InvalidActionEnvMultiBinary,
    InvalidActionEnvMultiDiscrete,
)
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from sb3_contrib.common.maskable.utils import is_masking_supported
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3.common.callbacks import EventCallback, StopTrainingOnNoModelImprovement
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnv, IdentityEnvBox
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from tables import PLACEMENTS

from sb3_moe.policies import on_policy

MASKED = ["MaskablePPO"]
# Each leaves no action but the right one.
CERTAIN = {
    "discrete": lambda: InvalidActionEnvDiscrete(dim=20, n_invalid_actions=19),
    "multidiscrete": lambda: InvalidActionEnvMultiDiscrete(dims=[2, 3], n_invalid_actions=3),
    "multibinary": lambda: InvalidActionEnvMultiBinary(dims=3, n_invalid_actions=3),
}


def some():
    return InvalidActionEnvDiscrete(dim=20, n_invalid_actions=10)


class AsDict(gym.ObservationWrapper):
    """What is seen, under a key."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = gym.spaces.Dict({"obs": env.observation_space})

    def observation(self, observation):
        return {"obs": observation}


def score(model, env, **kwargs):
    return evaluate_policy(model, env, n_eval_episodes=2, warn=False, **kwargs)[0]


@asked.over("masks", MASKED, world=CERTAIN)
def test_nothing_that_is_masked_is_done(algorithm, placement, world):
    for env, kind in ((world(), "Mlp"), (AsDict(world()), "MultiInput")):
        model = guests.make(algorithm, placement, kind, env)
        assert score(model, env) == 100
        assert score(model, env, use_masking=False) < 90
        arena.train(model, 16)


@pytest.mark.full  # several seconds each
@asked.over("masks learned", MASKED)
def test_it_learns_with_masks_what_it_cannot_without(algorithm, placement):
    env = InvalidActionEnvDiscrete(dim=30, n_invalid_actions=24)
    settings = {"n_steps": 128, "batch_size": 64, "n_epochs": 4, "gamma": 0.1, "clip_range": 0.4}
    settings["learning_rate"] = 1e-2
    scores = {}
    for masked in (True, False):
        model = guests.make(algorithm, placement, env=env, net_arch=[32], model=settings)
        model.learn(512, use_masking=masked)
        scores[masked] = score(model, env, use_masking=masked)
    assert scores[True] > scores[False] + 20


@asked.over("no masks", MASKED)
def test_without_masks_it_learns_and_is_evaluated_if_told_so(algorithm, placement):
    env = IdentityEnv(dim=2)
    model = guests.make(algorithm, placement, env=env)
    for use in (model.learn, lambda _: score(model, env)):
        with pytest.raises(ValueError, match="does not support action masking"):
            use(16)
    model.learn(16, use_masking=False)
    assert 0 <= score(model, env, use_masking=False) <= 100


def assert_learns_in_two(placement, kind):
    env = make_vec_env(some, n_envs=2, vec_env_cls=kind)
    assert is_masking_supported(env)
    model = guests.make("MaskablePPO", placement, env=env)
    arena.train(model, 64)
    assert 0 <= score(model, env) <= 100
    env.close()


@asked.over("masks of many", MASKED)
def test_several_environments_at_once_have_masks(algorithm, placement):
    assert_learns_in_two(placement, DummyVecEnv)


def test_environments_in_processes_have_masks():
    assert_learns_in_two("big", SubprocVecEnv)


@asked.over("masked callbacks", MASKED)
def test_the_callbacks_of_masked_evaluations_run(algorithm, placement, tmp_path):
    stop, best = StopTrainingOnNoModelImprovement(1, 2), EventCallback()
    callback = MaskableEvalCallback(
        Monitor(some()),
        eval_freq=16,
        n_eval_episodes=1,
        log_path=tmp_path,
        callback_after_eval=stop,
        callback_on_new_best=best,
        verbose=0,
    )
    guests.make(algorithm, placement, env=some()).learn(48, callback=callback)
    assert stop.n_calls >= best.n_calls > 0
    assert np.load(tmp_path / "evaluations.npz")["results"].shape[1] == 1


@asked.over("masked pictures", MASKED, share={"shared": True, "apart": False})
def test_it_learns_from_pictures_with_masks(algorithm, placement, share):
    allowed = np.array([True, False, True, False, True, True])
    env = ActionMasker(
        FakeImageEnv(screen_height=40, screen_width=40, n_channels=1), lambda env: allowed
    )
    model = guests.make(algorithm, placement, "Cnn", env, share_features_extractor=share)
    arena.train(model)
    picture = env.observation_space.sample()
    for _ in range(10):
        action, _ = model.predict(picture, action_masks=allowed)
        assert allowed[action]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_an_episode_that_is_cut_is_learned_from(placement):
    env = gym.wrappers.TimeLimit(some(), 10)
    model = guests.make("MaskablePPO", placement, env=env, model={"n_steps": 32})
    arena.train(model, 32)
    assert model.ep_info_buffer[0]["l"] == 10


@pytest.mark.parametrize(("kind", "env"), [("Mlp", some), ("MultiInput", lambda: AsDict(some()))])
def test_policies_without_masks_are_refused(kind, env):
    policy = getattr(on_policy, f"Moe{kind}Policy")
    with pytest.raises(ValueError, match="Policy must subclass MaskableActorCriticPolicy"):
        MaskablePPO(policy, env())


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_actions_without_choices_are_refused(placement):
    with pytest.raises(AssertionError, match="The algorithm only supports"):
        guests.make("MaskablePPO", placement, env=IdentityEnvBox())
