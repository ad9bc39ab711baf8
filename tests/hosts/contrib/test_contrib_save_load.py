"""What goes into a file comes out of it, as in sb3-contrib's ``test_save_load``."""

import copy

import arena
import contrib_asked as asked
import contrib_guests as guests
import numpy as np
import pytest
import torch as th

KINDS = {"flat": "Mlp", "pictures": "Cnn"}


def scrambled(module):
    """Give a module random weights, and return it."""
    with th.no_grad():
        for tensor in module.state_dict().values():
            tensor.uniform_() if tensor.is_floating_point() else tensor.random_(0, 10)
    return module


def on_pictures(algorithm, kind):
    """Return an environment for a kind of policy; pictures as large as SB3's encoder needs."""
    return guests.env_of(algorithm, arena.FLAT if kind == "Mlp" else guests.PICTURE)


@asked.over("parameters")
def test_parameters_are_set_whole_and_in_part_and_refused_where_wrong(algorithm, placement):
    model = guests.make(algorithm, placement)
    before = copy.deepcopy(model.get_parameters())
    for exact in (True, False):
        with pytest.raises(ValueError, match="invalid object"):
            model.set_parameters(before | {"nobody": {}}, exact_match=exact)
    with pytest.raises(ValueError, match="do not match agents' parameters"):
        model.set_parameters(dict(list(before.items())[:-1]), exact_match=True)
    *some, last = before["policy"]
    part = {name: th.ones_like(before["policy"][name]) for name in some}
    with pytest.raises(RuntimeError, match="Missing key"):
        model.set_parameters(before | {"policy": part}, exact_match=True)
    model.set_parameters(before | {"policy": part}, exact_match=False)
    after = model.get_parameters()["policy"]
    assert all(th.equal(after[name], part[name]) for name in some)
    assert th.equal(after[last], before["policy"][last])


@asked.over("model")
def test_a_loaded_model_has_the_same_weights_and_actions_and_learns_on(
    algorithm, placement, tmp_path
):
    model = arena.train(guests.make(algorithm, placement))
    obs = arena.observe(model)
    model.save(tmp_path / "model.zip")
    loaded = type(model).load(tmp_path / "model.zip", env=model.get_env(), device="cpu")
    arena.assert_same_weights(loaded.policy, model.policy)
    np.testing.assert_array_equal(arena.predict(loaded, obs), arena.predict(model, obs))
    before = copy.deepcopy(loaded.policy.state_dict())
    arena.train(loaded)
    moved = any(not th.equal(v, before[name]) for name, v in loaded.policy.state_dict().items())
    assert moved or loaded.logger.name_to_value.get("train/is_line_search_success") == 0


@asked.over("set_env")
def test_it_learns_on_in_another_environment(algorithm, placement):
    model = arena.train(guests.make(algorithm, placement))
    other = arena.default_env(algorithm, guests.alias_of(algorithm))
    model.set_env(other)
    arena.train(model)
    assert other.steps
    assert model.num_timesteps == 16


@asked.over("exclude")
def test_what_a_file_holds_is_left_out_and_put_in(algorithm, placement, tmp_path):
    model = guests.make(algorithm, placement)
    model.verbose = 2
    model.save(tmp_path / "without", exclude=["verbose"])
    model.save(tmp_path / "with", exclude=["verbose"], include=["verbose"])
    for name, verbose in (("without", 0), ("with", 2)):
        loaded = type(model).load(tmp_path / name, device="cpu")
        assert loaded.verbose == verbose
        arena.assert_same_weights(loaded.policy, model.policy)


@asked.over("replay", guests.OFF_POLICY)
def test_a_replay_buffer_comes_back_and_grows(algorithm, placement, tmp_path):
    model = arena.train(guests.make(algorithm, placement), 24)
    old = copy.deepcopy(model.replay_buffer)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    model.replay_buffer = None
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    new = model.replay_buffer
    for name in ("observations", "actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
    rows = (old.observations, old.observations, old.actions, old.rewards, old.dones)
    infos = [[{"TimeLimit.truncated": bool(cut)} for cut in row] for row in old.timeouts]
    new.extend(*(each[:9] for each in rows), infos[:9])
    assert new.size() == 33
    arena.train(model)


@asked.over("policy", guests.WITH_PICTURES, kind=KINDS)
def test_a_policy_alone_has_the_same_weights_and_actions(algorithm, placement, kind, tmp_path):
    model = guests.make(algorithm, placement, kind, on_pictures(algorithm, kind))
    policy = scrambled(model.policy)
    obs = arena.observe(model)
    policy.save(tmp_path / "policy")
    loaded = type(policy).load(tmp_path / "policy", device="cpu")
    arena.assert_same_weights(loaded, policy)
    np.testing.assert_array_equal(arena.predict(loaded, obs), arena.predict(policy, obs))


@asked.over("coefficient", guests.WITH_ACTOR, ent_coef={"learned": "auto", "fixed": 0.01})
def test_the_entropy_coefficient_is_kept(algorithm, placement, ent_coef, tmp_path):
    model = arena.train(guests.make(algorithm, placement, model={"ent_coef": ent_coef}))
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=model.get_env(), device="cpu")
    if ent_coef == 0.01:
        arena.train(loaded)
        assert loaded.log_ent_coef is None
        assert th.equal(loaded.ent_coef_tensor, model.ent_coef_tensor)
        return
    assert th.equal(loaded.log_ent_coef, model.log_ent_coef)
    arena.train(loaded)
    assert not th.equal(loaded.log_ent_coef, model.log_ent_coef)
