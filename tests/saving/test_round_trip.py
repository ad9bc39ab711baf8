"""A model that was saved and loaded acts the same, and takes bit for bit the same next step."""

import copy

import arena
import cases
import forge
import numpy as np
import pytest
import safetensors.torch
import torch as th
from covering import fewest
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import (
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import LinearSchedule

import sb3_moe
from sb3_moe.policies.learning_rates import LinearPerBlock, Restarted
from sb3_moe.saving.generators import preserved_generators
from sb3_moe.vec_env import DeviceReplayBuffer, DeviceRolloutBuffer

EVERY = cases.every_case()
FLAT = [case for case in EVERY if arena.kind_of(case.alias) == "Mlp"]
# Pictures once for each kind of algorithm; what differs between algorithms shows without them.
IMAGES = [
    cases.Case("PPO", "MoeCnnPolicy", "middle", "expert_choice", "conv"),
    cases.Case("DQN", "MoeMultiInputPolicy", "big", "task", "sample"),
    cases.Case("SAC", "MoeCnnPolicy", "all", "soft", "feature"),
    cases.Case("RecurrentPPO", "MoeMultiInputLstmPolicy", "final", "top_k", "sample"),
]
# A file holds the same of every combination: each value once.
COVER = [*fewest({case: set(case) for case in FLAT}), *IMAGES]


def round_trip(model, path, **kwargs):
    sb3_moe.save(model, path / "x.moe")
    return sb3_moe.load(path / "x.moe", device="cpu", **kwargs)


def step(model):
    """Take a gradient step, and leave the generators as they were."""
    with preserved_generators():
        if hasattr(model, "replay_buffer"):
            model.train(gradient_steps=3, batch_size=8)
        else:
            model.train()


def assert_goes_on_alike(model, loaded):
    obs = arena.observe(model)
    np.testing.assert_array_equal(arena.predict(loaded, obs), arena.predict(model, obs))
    arena.assert_same_weights(model.policy, loaded.policy)
    loaded.set_logger(model.logger)
    for name in ("replay_buffer", "rollout_buffer"):
        if hasattr(model, name):
            setattr(loaded, name, copy.deepcopy(getattr(model, name)))
    before = copy.deepcopy(model.policy.state_dict())
    step(model)
    step(loaded)
    arena.assert_same_weights(model.policy, loaded.policy)
    after = model.policy.state_dict()
    return any(not th.equal(before[name], after[name]) for name in before)


def check(model, path, **kwargs):
    arena.train(model, 24)
    # Learning rates that fall to zero have not yet.
    model._current_progress_remaining = 0.3
    loaded = round_trip(model, path, **kwargs)
    assert type(loaded) is type(model)
    assert type(loaded.policy) is type(model.policy)
    for name in ("num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining"):
        assert getattr(loaded, name) == getattr(model, name), name
    # TRPO takes no step where its line search fails.
    assert assert_goes_on_alike(model, loaded) or "TRPO" in type(model).__name__
    return loaded


@pytest.mark.parametrize(
    "case",
    [case if case in COVER else pytest.param(case, marks=pytest.mark.full) for case in EVERY],
    ids=str,
)
def test_a_loaded_model_takes_the_same_next_step(case, tmp_path):
    check(cases.make(case), tmp_path)


@pytest.mark.covering
@pytest.mark.parametrize(("algorithm", "alias"), arena.PAIRS)
def test_models_with_policies_of_sb3_are_saved_too(algorithm, alias, tmp_path):
    if arena.kind_of(alias) == "Cnn":
        pytest.skip("SB3's networks for pictures are large, and differ in nothing that is saved")
    model = arena.algorithm_class(algorithm)(
        alias.removeprefix("Moe"),
        arena.default_env(algorithm, alias),
        policy_kwargs={"net_arch": [8]},
        seed=0,
        device="cpu",
        **arena.small(algorithm),
    )
    check(model, tmp_path)


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
    "n-step": ("DQN", arena.DISCRETE, {"n_steps": 3}, {}),
    "lean-replay": (
        "DQN",
        arena.DISCRETE,
        {
            "optimize_memory_usage": True,
            "replay_buffer_kwargs": {"handle_timeout_termination": False},
        },
        {},
    ),
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
        {"use_sde": 0, "normalize_advantage": 1, "rollout_buffer_class": DeviceRolloutBuffer},
        {"optimizer_class": th.optim.NAdam, "optimizer_kwargs": {"betas": [0.9, 0.95]}},
    ),
    "momentum": (
        "PPO",
        arena.DISCRETE,
        {},
        {"optimizer_class": th.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}},
    ),
    "tf": ("A2C", arena.DISCRETE, {}, {"optimizer_class": RMSpropTFLike}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_every_kind_are_kept(name, tmp_path):
    algorithm, actions, arguments, options = SETTINGS[name]
    env = arena.Arena(arena.FLAT, actions)
    options = {"net_arch": [8], **options}
    check(arena.make(algorithm, env=env, model=arguments, **options), tmp_path)


@pytest.mark.parametrize(
    "actions",
    [spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3), spaces.Discrete(3, start=-1)],
    ids=str,
)
def test_actions_of_every_kind_are_kept(actions, tmp_path):
    env = arena.Arena(arena.FLAT, actions)
    loaded = check(arena.make("PPO", env=env, net_arch=[8]), tmp_path)
    assert loaded.action_space == actions


SCHEDULES = {
    "linear": LinearSchedule(1e-3, 1e-4, 0.7),
    "restarted": Restarted(LinearPerBlock(1e-3, 2), 0.9),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_kept(name, tmp_path):
    model = arena.make("PPO", model={"learning_rate": SCHEDULES[name], "clip_range": 0.1})
    loaded = check(model, tmp_path)
    for at in (0.8, 0.5, 0.123, 0.0):
        assert loaded.lr_schedule(at) == model.lr_schedule(at)
        assert loaded.clip_range(at) == model.clip_range(at)


def test_schedules_that_a_callback_restarted_stay_restarted(tmp_path):
    model = arena.make("DQN")
    arena.train(model)
    model.exploration_schedule = Restarted(model.exploration_schedule, 0.5)
    model.lr_schedule = Restarted(model.lr_schedule, 0.5)
    loaded = round_trip(model, tmp_path)
    assert loaded.exploration_schedule(0.45) == model.exploration_schedule(0.45) != 0.05
    assert isinstance(loaded.lr_schedule, Restarted)


@pytest.mark.parametrize("kind", [NormalActionNoise, OrnsteinUhlenbeckActionNoise])
def test_action_noise_is_kept(kind, tmp_path):
    noise = kind(np.zeros(2), 0.1 * np.ones(2))
    loaded = check(arena.make("TD3", model={"action_noise": noise}, net_arch=[8]), tmp_path)
    assert repr(loaded.action_noise) == repr(noise)


def test_the_noise_of_several_environments_is_made_anew(tmp_path):
    env = make_vec_env(lambda: arena.default_env("TD3", "MoeMlpPolicy"), n_envs=2)
    noise = NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))
    model = arena.make("TD3", env=env, model={"action_noise": noise}, net_arch=[8])
    arena.train(model)
    assert isinstance(model.action_noise, VectorizedActionNoise)
    loaded = round_trip(model, tmp_path, env=env)
    assert repr(loaded.action_noise) == repr(noise)
    arena.train(loaded)
    assert isinstance(loaded.action_noise, VectorizedActionNoise)


def test_other_numbers_of_environments_get_buffers_of_their_size(tmp_path):
    model = arena.train(arena.make("PPO"))
    env = make_vec_env(lambda: arena.default_env("PPO", "MoeMlpPolicy"), n_envs=3)
    loaded = round_trip(model, tmp_path, env=env)
    assert loaded.n_envs == loaded.rollout_buffer.n_envs == 3
    loaded.learn(48)


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


@pytest.mark.parametrize("actions", [spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3)], ids=str)
def test_masked_actions_of_every_kind_are_kept(actions, tmp_path):
    model = arena.make("MaskablePPO", env=arena.Arena(arena.FLAT, actions), net_arch=[8])
    loaded = round_trip(model, tmp_path)
    assert loaded.action_space == actions
    assert loaded.rollout_buffer.mask_dims == model.rollout_buffer.mask_dims


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


def test_a_folder_that_has_the_models_name_does_not_hide_it(tmp_path):
    model = arena.make("PPO", net_arch=[4])
    sb3_moe.save(model, tmp_path / "agent")
    (tmp_path / "agent").mkdir()
    assert sb3_moe.load(tmp_path / "agent").num_timesteps == 0


def test_what_is_no_model_cannot_be_saved(tmp_path):
    model = arena.make("PPO", net_arch=[8])
    with pytest.raises(TypeError, match="`model` must be an SB3 model, got a MoeMlpPolicy"):
        sb3_moe.save(model.policy, tmp_path / "x.moe")
    with pytest.raises(TypeError, match=r"`model` must be an SB3 model, got 'x.moe'"):
        sb3_moe.save("x.moe", model)
    assert not [*tmp_path.iterdir()]
