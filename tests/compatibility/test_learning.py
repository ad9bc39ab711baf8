"""Policies learn with what their algorithms offer, as in the tests of SB3 and sb3-contrib."""

from functools import partial

import arena
import models
import numpy as np
import torch as th
from behaviors import over
from models import assert_learns
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import (
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import (
    IdentityEnv,
    IdentityEnvBox,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise

NOISE = NormalActionNoise(np.zeros(2), np.full(2, 0.1))
SETTINGS = {
    "noise on actions": (models.WITH_ACTOR, {"action_noise": NOISE}),
    "plain advantages": (("A2C", "PPO", "MaskablePPO"), {"normalize_advantage": False}),
    "clipped values": (("PPO", "MaskablePPO", "RecurrentPPO"), {"clip_range_vf": 0.2}),
    "fixed entropy": (("SAC", "TQC", "CrossQ"), {"ent_coef": 0.01}),
    "entropy learned from 0.01": (("SAC", "TQC", "CrossQ"), {"ent_coef": "auto_0.01"}),
    "once per episode": (models.OFF_POLICY, {"train_freq": (1, "episode")}),
    "returns of 3 steps": (models.OFF_POLICY, {"n_steps": 3, "gamma": 0.9}),
    "part of a rollout": (("TRPO",), {"n_steps": 32, "sub_sampling_factor": 4}),
    "batches of one row": (("PPO",), {"n_steps": 4, "batch_size": 1, "normalize_advantage": False}),
}


@over("settings", fits=lambda algorithm, setting: algorithm in setting[0], setting=SETTINGS)
def test_it_learns_with_every_setting_of_its_algorithm(algorithm, placement, setting):
    assert_learns(models.make(algorithm, placement, model=setting[1]))


@over("critics", [name for name in models.WITH_ACTOR if name != "DDPG"], count=[1, 3])
def test_every_critic_is_one_of_its_own(algorithm, placement, count):
    model = assert_learns(models.make(algorithm, placement, n_critics=count))
    values = model.critic(th.zeros(2, 5), th.zeros(2, 2))
    assert (values.shape[1] if algorithm == "TQC" else len(values)) == count
    layers = model.policy.moe_layers()
    names = {name.split(".")[0] for name in layers}
    assert names == ({"pi", *(f"qf{i}" for i in range(count))} if layers else set())


@over("critics", ["QRDQN", "TQC"], count=[5, 50])
def test_it_has_any_number_of_quantiles(algorithm, placement, count):
    model = assert_learns(models.make(algorithm, placement, n_quantiles=count))
    if algorithm == "TQC":
        assert model.critic(th.zeros(2, 5), th.zeros(2, 2)).shape == (2, 2, count)
    else:
        assert model.quantile_net(th.zeros(2, 5)).shape == (2, count, 4)


@over("several environments", models.OFF_POLICY)
def test_it_learns_from_several_environments(algorithm, placement):
    env = make_vec_env(lambda: models.env_of(algorithm), n_envs=2)
    noise = {"action_noise": NOISE} if algorithm in models.WITH_ACTOR else {}
    settings = {"train_freq": 3, "gradient_steps": -1, "learning_starts": 0}
    model = models.make(algorithm, placement, env=env, model=settings | noise)
    arena.train(model, 3)
    # As many updates as transitions.
    assert model.logger.name_to_value["train/n_updates"] == 6
    assert not noise or isinstance(model.action_noise, VectorizedActionNoise)


def played(algorithm, placement):
    """Train, play on with chance, and return weights, actions and rewards."""
    model = arena.train(models.make(algorithm, placement, seed=3), 32)
    env = model.get_env()
    obs, states, starts, seen = env.reset(), None, None, []
    for _ in range(20):
        action, states = model.predict(obs, states, starts, deterministic=False)
        obs, reward, starts, _ = env.step(action)
        seen.append((action.tolist(), reward.tolist()))
    return model.policy, seen


@over("seed")
def test_the_same_seed_gives_the_same_weights_actions_and_rewards(algorithm, placement):
    (policy, once), (other, twice) = (played(algorithm, placement) for _ in range(2))
    arena.assert_same_weights(policy, other)
    assert once == twice


@over("callbacks")
def test_callbacks_run_listed_and_nested(algorithm, placement, tmp_path):
    model = models.make(algorithm, placement)
    evaluation = EvalCallback(
        Monitor(models.env_of(algorithm)),
        callback_on_new_best=StopTrainingOnRewardThreshold(reward_threshold=1e9),
        callback_after_eval=StopTrainingOnNoModelImprovement(99),
        best_model_save_path=str(tmp_path),
        eval_freq=8,
        n_eval_episodes=1,
        verbose=0,
    )
    every = EveryNTimesteps(8, CheckpointCallback(1, str(tmp_path), name_prefix="event"))
    model.learn(16, callback=CallbackList([evaluation, every]), log_interval=None)
    for name in ("best_model", "event_16_steps"):
        loaded = type(model).load(tmp_path / name)
        assert loaded.policy.state_dict().keys() == model.policy.state_dict().keys()


REPLAY = {"buffer_size": 600, "batch_size": 32, "train_freq": 4, "gradient_steps": 3}
# Only the next reward counts, and rates are for few steps.
IDENTITY = {
    "A2C": (640, partial(IdentityEnv, 2), {"n_steps": 16, "learning_rate": 3e-3}),
    "PPO": (
        512,
        partial(IdentityEnvMultiBinary, 2),
        {"n_steps": 64, "batch_size": 32, "n_epochs": 4},
    ),
    "TRPO": (640, partial(IdentityEnvMultiDiscrete, 2), {"n_steps": 128, "batch_size": 64}),
    "DQN": (
        200,
        partial(IdentityEnv, 2),
        {**REPLAY, "exploration_fraction": 0.5, "target_update_interval": 32},
    ),
    "SAC": (180, partial(IdentityEnvBox, eps=0.5), {**REPLAY, "learning_starts": 32}),
}


@over("identity", list(IDENTITY))
def test_it_learns_to_say_what_it_sees(algorithm, placement):
    steps, make_env, settings = IDENTITY[algorithm]
    env = make_env(ep_length=20)
    env.action_space.seed(0)
    settings = {"learning_rate": 1e-2, "gamma": 0.0, **settings}
    model = models.make(algorithm, placement, env=env, model=settings, net_arch=[32])
    model.learn(steps)
    assert evaluate_policy(model, Monitor(env), n_eval_episodes=2)[0] >= 0.9 * env.ep_length


def with_goals(algorithm, placement, *, images=False, **model):
    env = make_vec_env(lambda: models.bits(images=images, discrete=algorithm in models.WITH_Q), 2)
    her = {
        "replay_buffer_class": HerReplayBuffer,
        "replay_buffer_kwargs": {"n_sampled_goal": 2, "copy_info_dict": True},
        "learning_starts": 12,
    }
    return models.make(algorithm, placement, "MultiInput", env, model=her | model)


WITH_GOALS = [name for name in models.OFF_POLICY if name != "CrossQ"]


@over("HER", WITH_GOALS)
def test_it_learns_with_goals_and_goes_on_from_a_file(algorithm, placement, tmp_path):
    model = assert_learns(with_goals(algorithm, placement, buffer_size=20), 48)
    assert model.replay_buffer.full
    obs = arena.observe(model)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    loaded = type(model).load(tmp_path / "model", env=model.get_env())
    loaded.load_replay_buffer(tmp_path / "replay", truncate_last_traj=False)
    np.testing.assert_array_equal(arena.predict(loaded, obs), arena.predict(model, obs))
    for key, stored in model.replay_buffer.observations.items():
        np.testing.assert_array_equal(loaded.replay_buffer.observations[key], stored)
    loaded.learn(24, reset_num_timesteps=False)


def noise_of(policy):
    return next(v for name, v in policy.state_dict().items() if name.endswith("log_std"))


@over("gSDE", models.WITH_GSDE)
def test_it_learns_with_gsde_and_draws_its_noise_anew(algorithm, placement):
    model = models.with_gsde(algorithm, placement, log_std_init=-1)
    before = noise_of(model.policy).clone()
    assert_learns(model)
    assert algorithm == "TRPO" or not th.equal(noise_of(model.policy), before)
    if algorithm == "RecurrentPPO":
        return
    obs = model.policy.obs_to_tensor(arena.observe(model))[0]
    model.policy.reset_noise()
    first = model.policy._predict(obs)
    th.testing.assert_close(model.policy._predict(obs), first)
    model.policy.reset_noise()
    assert not th.equal(model.policy._predict(obs), first)


OPTIMIZERS = {
    "AdamW": {"optimizer_class": th.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.0}},
    "RMSprop": {"optimizer_class": th.optim.RMSprop},
}


@over("optimizer", optimizer=OPTIMIZERS)
def test_it_takes_another_optimizer_and_its_arguments(algorithm, placement, optimizer):
    model = assert_learns(models.make(algorithm, placement, **optimizer))
    owner = model.policy if hasattr(model.policy, "optimizer") else model.policy.critic
    assert isinstance(owner.optimizer, optimizer["optimizer_class"])
    for name, value in optimizer.get("optimizer_kwargs", {}).items():
        assert owner.optimizer.defaults[name] == value


@over("no hidden layer")
def test_it_takes_no_hidden_layer(algorithm, placement):
    assert_learns(models.make(algorithm, placement, net_arch=[]))


def norms(model):
    """Return what the extractor's batch norm learned and counted, by name."""
    state = model.policy.state_dict()
    return {k: v.clone() for k, v in state.items() if "extractor.layers.1." in k}


def changed(before, model):
    return {k for k, v in norms(model).items() if not th.equal(before[k], v)}


def whitened(algorithm, placement, **model):
    return models.make(algorithm, placement, model=model, features_extractor_class=models.Whitening)


@over("own extractor")
def test_an_own_extractor_learns_in_training_and_stays_as_it_is_in_play(
    algorithm, placement, tmp_path
):
    model = whitened(algorithm, placement)
    before = norms(model)
    arena.train(model, 24)
    online = {k for k in before if "_target" not in k and "num_batches" not in k}
    if algorithm == "TRPO":  # which takes no step where its search fails
        online = {k for k in online if "running" in k}
    assert changed(before, model) >= online
    before, obs = norms(model), arena.observe(model)
    first = arena.predict(model, obs)
    np.testing.assert_array_equal(arena.predict(model, obs), first)
    if algorithm in models.OFF_POLICY:
        model.gradient_steps = 0
        arena.train(model, 12)
    assert not changed(before, model)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(arena.predict(loaded, obs), arena.predict(model, obs))


@over("targets", [name for name in models.OFF_POLICY if name != "CrossQ"])
def test_targets_follow_by_tau_and_by_nothing_else(algorithm, placement):
    settings = {"target_update_interval": 1} if algorithm in (*models.WITH_Q, "SAC", "TQC") else {}
    settings |= {"policy_delay": 1} if algorithm == "TD3" else {}
    model = models.make(algorithm, placement, model={"learning_starts": 99, **settings})
    targets = {k: v for k, v in model.policy.state_dict().items() if "_target." in k}

    def moved():
        """Say of online networks and of their targets whether they moved."""
        state = {k: v.clone() for k, v in model.policy.state_dict().items()}
        if algorithm in models.WITH_Q:
            model._on_step()
        model.train(gradient_steps=2, batch_size=8)
        after = model.policy.state_dict()
        there = {k for k in after if not th.equal(state[k], after[k])}
        return bool(there - targets.keys()), bool(there & targets.keys())

    for name, target in targets.items():
        assert th.equal(target, model.policy.state_dict()[name.replace("_target", "")])
    arena.train(model, 16)  # too few to learn from
    model.tau = 0.0
    assert moved() == (True, False)
    model.tau, model.lr_schedule = 0.01, lambda _: 0.0
    assert moved() == (False, True)
