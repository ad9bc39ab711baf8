"""What goes into a file comes out of it, as in SB3's ``test_save_load``."""

import copy
import math

import arena
import asked
import guests
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

PICTURE = spaces.Box(0, 255, (36, 40, 2), np.uint8)
ALIASES = {"flat": "MoeMlpPolicy", "pictures": "MoeCnnPolicy"}


def weights(parameters):
    """Return what ``get_parameters`` holds of the policy's networks, optimisers left out."""
    return parameters["policy"]


def scrambled(module):
    """Give a module random weights, and return it."""
    module.load_state_dict({key: th.rand_like(v) for key, v in module.state_dict().items()})
    return module


def on_pictures(algorithm, alias):
    """Return an environment for an alias; pictures as large as SB3's encoder needs."""
    if alias == "MoeMlpPolicy":
        return arena.default_env(algorithm, alias)
    return arena.Arena(PICTURE, arena.actions_of(algorithm))


@asked.over("parameters")
def test_parameters_are_set_whole_and_in_part_and_refused_where_wrong(algorithm, placement):
    model = guests.make(algorithm, placement)
    before = copy.deepcopy(model.get_parameters())
    for exact in (True, False):
        with pytest.raises(ValueError, match="invalid object"):
            model.set_parameters(before | {"nobody": {}}, exact_match=exact)
    with pytest.raises(ValueError, match="do not match agents' parameters"):
        model.set_parameters(dict(list(before.items())[:-1]), exact_match=True)
    *some, last = weights(before)
    part = {name: th.rand_like(weights(before)[name]) for name in some}
    with pytest.raises(RuntimeError, match="Missing key"):
        model.set_parameters(before | {"policy": part}, exact_match=True)
    model.set_parameters(before | {"policy": part}, exact_match=False)
    after = weights(model.get_parameters())
    assert all(th.equal(after[name], part[name]) for name in some)
    assert th.equal(after[last], weights(before)[last])


@asked.over("model")
def test_a_loaded_model_has_the_same_weights_and_actions_and_learns_on(
    algorithm, placement, tmp_path
):
    model = arena.train(guests.make(algorithm, placement))
    obs = arena.observe(model)
    model.save(tmp_path / "model.zip")
    loaded = type(model).load(tmp_path / "model.zip", env=model.get_env(), device="auto")
    arena.assert_same_weights(loaded.policy.cpu(), model.policy)
    np.testing.assert_array_equal(arena.predict(loaded, obs), arena.predict(model, obs))
    before = copy.deepcopy(loaded.policy.state_dict())
    arena.train(loaded)
    assert any(not th.equal(v, before[name]) for name, v in loaded.policy.state_dict().items())


# torch itself imports what it has deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@asked.over("compiled", ["PPO", "DQN"])
def test_a_compiled_policy_is_saved_and_loaded(algorithm, placement, tmp_path):
    model = guests.make(algorithm, placement)
    before = copy.deepcopy(model.policy.state_dict())
    model.policy = th.compile(model.policy)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model").policy.state_dict()
    assert all(th.equal(loaded[name], tensor) for name, tensor in before.items())


@asked.over("set_env", ["PPO", "DQN"])
def test_it_changes_its_environment_and_keeps_or_resets_its_counter(algorithm, placement, tmp_path):
    model = arena.train(guests.make(algorithm, placement))
    model.set_env(arena.default_env(algorithm, "MoeMlpPolicy"))
    assert model._last_obs is None
    arena.train(model)
    assert model.num_timesteps == 16
    two = make_vec_env(lambda: arena.default_env(algorithm, "MoeMlpPolicy"), n_envs=2)
    with pytest.raises(AssertionError, match="number of environments to be set is different"):
        model.set_env(two)
    model.set_env(model.get_env(), force_reset=False)
    assert model._last_obs is not None
    model.learn(16, reset_num_timesteps=False)
    assert model.num_timesteps == 32
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=model.get_env(), force_reset=False)
    assert loaded._last_obs is not None
    assert loaded.learn(16, reset_num_timesteps=False).num_timesteps == 48
    # Another number of environments is no hindrance to a file.
    assert type(model).load(tmp_path / "model", env=two).learn(32).num_timesteps == 32


@asked.over("exclude", ["PPO", "SAC"])
def test_what_a_file_holds_is_left_out_put_in_and_replaced(algorithm, placement, tmp_path):
    model = guests.make(algorithm, placement)
    model.verbose = 2
    model.save(tmp_path / "without", exclude=["verbose"])
    assert type(model).load(tmp_path / "without").verbose == 0
    model.save(tmp_path / "with", exclude=["verbose"], include=["verbose"])
    custom = {"learning_rate": 2e-5, "nobody": 1.0}
    loaded = type(model).load(tmp_path / "with", custom_objects=custom)
    assert (loaded.verbose, loaded.learning_rate) == (2, 2e-5)
    assert not hasattr(loaded, "nobody")
    arena.assert_same_weights(loaded.policy, model.policy)


@asked.over("coefficient", ["SAC"], ent_coef={"learned": "auto", "fixed": 0.01})
def test_the_entropy_coefficient_is_in_the_file(algorithm, placement, ent_coef, tmp_path):
    model = arena.train(guests.make(algorithm, placement, model={"ent_coef": ent_coef}))
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=model.get_env())
    if ent_coef == 0.01:
        assert loaded.log_ent_coef is None
        assert loaded.ent_coef_tensor == model.ent_coef_tensor
        return
    assert th.equal(loaded.log_ent_coef, model.log_ent_coef)
    assert not th.equal(arena.train(loaded).log_ent_coef, model.log_ent_coef)


@asked.over("pictures from a file", ["A2C", "TD3"])
def test_it_goes_on_from_a_file_with_pictures(algorithm, placement, tmp_path):
    env = on_pictures(algorithm, "MoeCnnPolicy")
    model = arena.train(guests.make(algorithm, placement, "MoeCnnPolicy", env))
    model.save(tmp_path / "model")
    same = {"policy_kwargs": model.policy_kwargs}
    loaded = type(model).load(tmp_path / "model", env=env, **same)
    assert arena.train(loaded).num_timesteps == 16


@asked.over("replay", guests.OFF_POLICY, thrifty={"each kept twice": False, "once": True})
def test_the_replay_buffer_is_saved_and_loaded(algorithm, placement, thrifty, tmp_path):
    # SB3's thrifty buffer can't tell time limits from ends.
    kwargs = {
        "optimize_memory_usage": thrifty,
        "replay_buffer_kwargs": {"handle_timeout_termination": not thrifty},
    }
    model = arena.train(guests.make(algorithm, placement, model=kwargs))
    buffer = model.replay_buffer
    model.save_replay_buffer(tmp_path / "replay")
    model.load_replay_buffer(tmp_path / "replay")
    for name in ("observations", "actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(model.replay_buffer, name), getattr(buffer, name))
    model.learn(16, reset_num_timesteps=False)
    assert model.replay_buffer.size() == 32


def assert_loads(module, predict, path):
    """Save a module with random weights, load it, and compare what it is."""
    scrambled(module)
    module.set_training_mode(False)
    expected = predict(module)
    module.save(path)
    loaded = type(module).load(path, device="cpu")
    arena.assert_same_weights(loaded, module)
    ours, theirs = (each._get_constructor_parameters() for each in (module, loaded))
    for unlike in ("lr_schedule", "features_extractor"):
        ours.pop(unlike, None), theirs.pop(unlike, None)
    assert ours == theirs
    loaded.set_training_mode(False)
    np.testing.assert_array_equal(predict(loaded), expected)


@asked.over("policy", alias=ALIASES)
def test_a_policy_saved_alone_is_the_same(algorithm, placement, alias, tmp_path):
    model = guests.make(algorithm, placement, alias, on_pictures(algorithm, alias))
    obs = arena.observe(model)
    assert_loads(model.policy, lambda policy: arena.predict(policy, obs), tmp_path / "policy")


@asked.over("policy with gSDE", ("A2C", "PPO", "SAC"))
def test_a_policy_with_gsde_saved_alone_is_the_same(algorithm, placement, tmp_path):
    env = arena.Arena(arena.FLAT, arena.BOX)
    model = guests.make(algorithm, placement, env=env, model={"use_sde": True})
    obs = arena.observe(model)
    assert_loads(model.policy, lambda policy: arena.predict(policy, obs), tmp_path / "policy")


@asked.over("part", guests.OFF_POLICY, alias=ALIASES)
def test_an_actor_or_q_network_saved_alone_is_the_same(algorithm, placement, alias, tmp_path):
    model = guests.make(algorithm, placement, alias, on_pictures(algorithm, alias))
    obs = arena.observe(model)
    part = model.q_net if algorithm == "DQN" else model.actor
    assert_loads(part, lambda part: arena.predict(part, obs), tmp_path / "part")
    # The policy acts as its part does.
    np.testing.assert_array_equal(arena.predict(model.policy, obs), arena.predict(part, obs))


@asked.over("critic", guests.WITH_ACTOR, alias=ALIASES)
def test_a_critic_saved_alone_is_the_same(algorithm, placement, alias, tmp_path):
    model = guests.make(algorithm, placement, alias, on_pictures(algorithm, alias))
    obs, _ = model.policy.obs_to_tensor(arena.observe(model))

    @th.no_grad()
    def judge(critic):
        return th.cat(critic(obs, th.full((3, 2), 0.3)), dim=1).numpy()

    assert_loads(model.critic, judge, tmp_path / "critic")


@asked.over("open file", ["PPO", "SAC"])
def test_a_model_goes_to_a_path_a_string_and_an_open_file(algorithm, placement, tmp_path):
    model = guests.make(algorithm, placement)
    for path in (tmp_path / "path", str(tmp_path / "text")):
        model.save(path)
        arena.assert_same_weights(type(model).load(path, device="cpu").policy, model.policy)
    with open(tmp_path / "open", "w+b") as file:
        model.save(file)
        loaded = type(model).load(file, device="cpu")
        assert not file.closed
    arena.assert_same_weights(loaded.policy, model.policy)


@asked.over("schedule", ["PPO", "SAC"])
def test_a_learning_rate_that_is_a_function_is_kept(algorithm, placement, tmp_path):
    schedule = {"learning_rate": lambda left: left * np.sin(1.0)}
    model = guests.make(algorithm, placement, model=schedule)
    model.save(tmp_path / "model")
    for each in (model, type(model).load(tmp_path / "model", env=model.get_env())):
        assert type(each.lr_schedule(1.0)) is float
        assert each.lr_schedule(0.5) == pytest.approx(0.5 * math.sin(1.0))
        arena.train(each)


@asked.over("default net_arch")
def test_no_net_arch_is_the_default_and_saved_as_what_it_came_to(algorithm, placement, tmp_path):
    model = guests.make(algorithm, placement, net_arch=None)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", device="cpu")
    assert loaded.policy.net_arch is not None
    arena.assert_same_weights(loaded.policy, model.policy)
