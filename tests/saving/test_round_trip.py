"""A model that was saved and loaded acts the same, and takes bit for bit the same next step."""

import copy

import arena
import contract
import forge
import numpy as np
import pytest
import safetensors.torch
import torch as th
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule

import sb3_moe
from sb3_moe.policies.learning_rates import LinearPerBlock, Restarted
from sb3_moe.vec_env import DeviceReplayBuffer, DeviceRolloutBuffer


def round_trip(model, path, **kwargs):
    sb3_moe.save(model, path / "x.moe")
    return sb3_moe.load(path / "x.moe", device="cpu", **kwargs)


# SB3's networks for images are large, and differ in nothing that is saved.
OF_SB3 = [pair for pair in arena.PAIRS if arena.kind_of(pair[1]) != "Cnn"]


@pytest.mark.covering
@pytest.mark.parametrize(("algorithm", "alias"), OF_SB3)
def test_models_with_policies_of_sb3_are_saved_too(algorithm, alias, tmp_path):
    env = arena.default_env(algorithm, alias)
    model = arena.make(algorithm, alias.removeprefix("Moe"), env, net_arch=[8])
    contract.check(model, tmp_path)


# Settings that have nothing to do with each other share a model.
SETTINGS = {
    "gsde": (
        "PPO",
        arena.BOX,
        {"use_sde": True, "sde_sample_freq": 2, "clip_range_vf": 0.3, "target_kl": 0.5},
        {"share_features_extractor": False, "log_std_init": -1.0, "activation_fn": th.nn.ELU},
    ),
    "gsde-sac": (
        "SAC",
        arena.BOX,
        {"use_sde": True, "ent_coef": 0.1},
        {"placement": {"pi": "all", "qf": "middle"}, "net_arch": {"pi": [8], "qf": [6, 7]}},
    ),
    "auto-entropy": ("TQC", arena.BOX, {"ent_coef": "auto_0.3", "target_entropy": -1.5}, {}),
    "device-replay": (
        "TD3",
        arena.BOX,
        {
            "train_freq": (2, "episode"),
            "gradient_steps": -1,
            "replay_buffer_class": DeviceReplayBuffer,
        },
        {},
    ),
    "adamw": (
        "A2C",
        arena.DISCRETE,
        {},
        {
            "optimizer_class": th.optim.AdamW,
            "optimizer_kwargs": {"weight_decay": 0.1, "betas": (0.8, 0.99), "amsgrad": True},
        },
    ),
    "list": (
        "PPO",
        arena.DISCRETE,
        {"rollout_buffer_class": DeviceRolloutBuffer},
        {"optimizer_class": th.optim.NAdam, "optimizer_kwargs": {"betas": [0.9, 0.95]}},
    ),
    "tf": ("A2C", arena.DISCRETE, {}, {"optimizer_class": RMSpropTFLike}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_every_kind_are_kept(name, tmp_path):
    algorithm, actions, arguments, options = SETTINGS[name]
    env = arena.Arena(arena.FLAT, actions)
    options = {"net_arch": [8], **options}
    contract.check(arena.make(algorithm, env=env, model=arguments, **options), tmp_path)


@pytest.mark.parametrize(
    "schedule", [LinearSchedule(1e-3, 1e-4, 0.7), Restarted(LinearPerBlock(1e-3, 2), 0.9)]
)
def test_schedules_are_kept(schedule, tmp_path):
    model = arena.make("PPO", model={"learning_rate": schedule, "clip_range": 0.1})
    loaded = contract.check(model, tmp_path)
    for at in (0.8, 0.5, 0.123, 0.0):
        assert loaded.lr_schedule(at) == model.lr_schedule(at)
        assert loaded.clip_range(at) == model.clip_range(at)


@pytest.mark.parametrize("kind", [NormalActionNoise, OrnsteinUhlenbeckActionNoise])
def test_action_noise_is_kept(kind, tmp_path):
    noise = kind(np.zeros(2), 0.1 * np.ones(2))
    loaded = contract.check(
        arena.make("TD3", model={"action_noise": noise}, net_arch=[8]), tmp_path
    )
    assert repr(loaded.action_noise) == repr(noise)


def test_other_numbers_of_environments_get_buffers_of_their_size(tmp_path):
    model = arena.train(arena.make("PPO"))
    env = make_vec_env(lambda: arena.default_env("PPO", "MoeMlpPolicy"), n_envs=3)
    loaded = round_trip(model, tmp_path, env=env)
    assert loaded.n_envs == loaded.rollout_buffer.n_envs == 3
    loaded.learn(48)


def test_the_buffer_that_sb3_chose_for_returns_of_several_steps_is_chosen_again(tmp_path):
    buffer = round_trip(arena.make("DQN", model={"n_steps": 3}), tmp_path).replay_buffer
    assert (type(buffer), buffer.n_steps) == (NStepReplayBuffer, 3)


def test_loading_draws_from_the_generators_only_as_sb3_does(tmp_path):
    model = arena.train(arena.make("PPO"))
    loaded = round_trip(model, tmp_path)
    assert loaded.seed == model.seed
    drawn = np.random.rand()
    np.random.seed(model.seed)
    assert drawn == np.random.rand()


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_saving_leaves_the_model_as_it_was(algorithm, tmp_path):
    model = arena.train(arena.make(algorithm.__name__, net_arch=[8]))
    before = {name: copy.copy(value) for name, value in vars(model).items()}
    weights = copy.deepcopy(model.policy.state_dict())
    sb3_moe.save(model, tmp_path / "x.moe")
    assert set(vars(model)) == set(before)
    assert all(th.equal(value, weights[name]) for name, value in model.policy.state_dict().items())


def test_the_tensors_can_be_read_by_safetensors_itself(tmp_path):
    model = arena.train(arena.make("SAC", net_arch=[4]))
    sb3_moe.save(model, tmp_path / "x.moe")
    found = safetensors.torch.load_file(tmp_path / "x.moe")
    for name, tensor in model.policy.state_dict().items():
        assert th.equal(found[f"weights/policy/{name}"], tensor)
    assert th.equal(found["weights/log_ent_coef"], model.log_ent_coef)


def test_a_file_says_who_wrote_it_and_is_the_same_twice(tmp_path):
    model = arena.train(arena.make("PPO", net_arch=[8]))
    for name in ("a.moe", "b.moe"):
        sb3_moe.save(model, tmp_path / name)
    assert (tmp_path / "a.moe").read_bytes() == (tmp_path / "b.moe").read_bytes()
    assert forge.parts_of(tmp_path / "a.moe")[0]["versions"]["sb3_moe"] == sb3_moe.__version__


def test_a_name_without_an_ending_gets_one_and_is_found_both_ways(tmp_path):
    model = arena.make("PPO", net_arch=[4])
    sb3_moe.save(model, tmp_path / "agent")
    sb3_moe.save(model, tmp_path / "other.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.moe", "other.bin"]
    for name in ("agent", "agent.moe", "other.bin"):
        assert sb3_moe.load(tmp_path / name).num_timesteps == 0
    (tmp_path / "agent.moe").rename(tmp_path / "old")
    assert sb3_moe.load(str(tmp_path / "old")).num_timesteps == 0


def test_sb3s_ending_is_left_to_sb3(tmp_path):
    text = r"`path` must not end in \.zip, .* got '.*agent\.zip': leave the ending out"
    with pytest.raises(ValueError, match=text):
        sb3_moe.save(arena.make("PPO", net_arch=[4]), tmp_path / "agent.zip")
