"""Replay buffers, running statistics, classes of the user's own, and what can't be saved."""

import json

import arena
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize

import sb3_moe
from sb3_moe import UnsafeFileError
from sb3_moe.layers import MoELayer
from sb3_moe.policies.placements import Placement
from sb3_moe.saving.model_parts import WrapperLeftOutWarning
from sb3_moe.saving.values import MAX_HEADER, Decoder, Encoder, pack, unpack


def load(path, *args, **kwargs):
    return sb3_moe.load(path, *args, device="cpu", **kwargs)


# Replay buffers.


class OwnBuffer(ReplayBuffer):
    pass


def test_a_model_begins_with_an_empty_buffer_of_its_own_kind(tmp_path):
    model = arena.train(arena.make("DQN", model={"replay_buffer_class": OwnBuffer}))
    sb3_moe.save(model, tmp_path / "x.moe")
    env = make_vec_env(lambda: arena.default_env("DQN", "MoeMlpPolicy"), n_envs=2)
    loaded = load(tmp_path / "x.moe", env, custom_objects={"OwnBuffer": OwnBuffer})
    assert (type(loaded.replay_buffer), loaded.replay_buffer.size()) == (OwnBuffer, 0)
    arena.train(loaded, 32)


# Running statistics.


def normalized(**kwargs):
    venv = make_vec_env(lambda: arena.default_env("PPO", "MoeMlpPolicy"), n_envs=2, seed=0)
    return VecNormalize(venv, **kwargs)


@pytest.fixture
def saved(tmp_path):
    model = arena.train(arena.make("PPO", env=normalized(gamma=0.9), net_arch=[4]), 64)
    sb3_moe.save(model, tmp_path / "x.moe")
    return model, tmp_path / "x.moe"


def statistics(env):
    return [np.copy(x) for rms in (env.obs_rms, env.ret_rms) for x in (rms.mean, rms.var)]


def assert_same_statistics(ours, theirs):
    for mine, other in zip(statistics(ours), statistics(theirs), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert ours.obs_rms.count == theirs.obs_rms.count


def test_a_plain_environment_is_wrapped_in_the_files_normalizer(saved):
    model, path = saved
    loaded = load(path, normalized().venv)
    env = loaded.get_vec_normalize_env()
    assert_same_statistics(env, model.get_vec_normalize_env())
    assert env.gamma == 0.9
    arena.train(loaded, 64)
    assert_same_statistics(env, loaded.env)


def test_a_normalized_environment_gets_the_statistics_and_keeps_its_settings(saved):
    model, path = saved
    env = normalized(training=False, norm_reward=False)
    loaded = load(path, env)
    assert loaded.get_vec_normalize_env() is env
    assert_same_statistics(env, model.get_vec_normalize_env())
    assert not env.training
    assert not env.norm_reward


def test_statistics_can_be_left_where_they_are(saved, tmp_path):
    model, path = saved
    env = normalized()
    before = statistics(env)
    load(path, env, normalizer=False)
    assert all(map(np.array_equal, statistics(env), before))
    assert load(path, env.venv, normalizer=False).get_vec_normalize_env() is None
    sb3_moe.save(model, tmp_path / "without.moe", normalizer=False)
    assert load(tmp_path / "without.moe", env.venv).get_vec_normalize_env() is None


def test_statistics_that_nothing_takes_are_said_to_be_left_out(saved, tmp_path):
    _, path = saved
    with pytest.warns(WrapperLeftOutWarning, match="x.moe has the statistics by which obs.*env"):
        load(path)
    load(path, normalizer=False)  # no warning: they are not wanted
    rewards = normalized(norm_obs=False)
    sb3_moe.save(arena.make("PPO", env=rewards, net_arch=[4]), tmp_path / "rewards.moe")
    load(tmp_path / "rewards.moe")  # nor here: nothing that a prediction needs


class OwnNormalize(VecNormalize):
    pass


def test_an_environment_with_another_normalizer_is_refused(saved, tmp_path):
    _, path = saved
    with pytest.raises(ValueError, match=r"normalized by OwnNormalize .* those of VecNormal"):
        load(path, OwnNormalize(normalized().venv))
    with pytest.raises(ValueError, match=r"by VecNormalize .*'return': .* keep your own"):
        load(path, normalized(norm_obs=False))
    own = arena.make("PPO", env=OwnNormalize(normalized().venv), net_arch=[4])
    with pytest.raises(ValueError, match="`normalizer` must be False for a OwnNormalize"):
        sb3_moe.save(own, tmp_path / "own.moe")


# The caller's own.


class OwnExtractor(FlattenExtractor):
    pass


class OwnActivation(th.nn.Tanh):
    pass


class OwnPolicy(PPO.policy_aliases["MoeMlpPolicy"]):
    pass


class OwnPPO(PPO):
    pass


def own_rate(progress):
    return 1e-3 * progress


def test_classes_and_functions_of_the_users_own_are_given_by_name(tmp_path):
    model = OwnPPO(
        OwnPolicy,
        arena.default_env("PPO", "MoeMlpPolicy"),
        learning_rate=own_rate,
        device="cpu",
        policy_kwargs={
            "activation_fn": OwnActivation,
            "features_extractor_class": OwnExtractor,
            "net_arch": [4],
        },
        **arena.small("PPO"),
    )
    sb3_moe.save(model, tmp_path / "x.moe")
    own = {each.__name__: each for each in (OwnPPO, OwnPolicy, OwnActivation, OwnExtractor)}
    own["own_rate"] = own_rate
    loaded = load(tmp_path / "x.moe", custom_objects=own)
    assert type(loaded) is OwnPPO
    assert type(loaded.policy) is OwnPolicy
    assert isinstance(loaded.policy.features_extractor, OwnExtractor)
    assert loaded.lr_schedule(0.5) == 0.5e-3
    arena.assert_same_weights(model.policy, loaded.policy)
    for name in own:
        rest = {key: value for key, value in own.items() if key != name}
        with pytest.raises(UnsafeFileError, match=f"in custom_objects={{'{name}': ...}}"):
            load(tmp_path / "x.moe", custom_objects=rest)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (lambda progress: 1e-3, "`learning_rate` can't be saved without pickle: .*lambda"),
        (type("Schedule", (), {"__call__": lambda self, p: 1e-3})(), "without pickle"),
    ],
    ids=["lambda", "object"],
)
def test_what_has_no_name_can_not_be_saved(value, text, tmp_path):
    model = arena.make("PPO", model={"learning_rate": value})
    with pytest.raises(ValueError, match=text):
        sb3_moe.save(model, tmp_path / "x.moe")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*sb3_contrib.*")
def test_an_algorithm_that_is_not_installed_is_named(tmp_path, monkeypatch):
    sb3_moe.save(arena.make("TRPO", net_arch=[4]), tmp_path / "x.moe")
    monkeypatch.setattr("sb3_moe.saving.values._known", lambda role, name: None)
    with pytest.raises(UnsafeFileError, match="its `algorithm` is TRPO, which needs sb3-contrib"):
        load(tmp_path / "x.moe")


class Halves(MoELayer):
    """Give every expert the same weight, as a user might write it."""

    def __init__(self, experts, sees, *, share=1.0):
        super().__init__(experts)
        self.share = share

    def route(self, x, router_x):
        gates = x.new_full((*x.shape[:-1], self.num_experts), self.share / 2)
        return self.combine(x, gates)


@pytest.mark.parametrize(
    ("algorithm", "router", "by_network"),
    [("PPO", Halves, True), ("DQN", f"{__name__}:Halves", False)],
)
def test_a_router_of_ones_own_is_given_to_load(algorithm, router, by_network, tmp_path):
    network = "pi" if algorithm == "PPO" else "qf"
    options = {"router": {network: router} if by_network else router, "num_experts": 2}
    options["router_kwargs"] = {network: {"share": 0.5}} if by_network else {"share": 0.5}
    model = arena.train(arena.make(algorithm, net_arch=[4], **options))
    sb3_moe.save(model, tmp_path / "x.moe")
    with pytest.raises(UnsafeFileError, match=r"in custom_objects=\{'Halves': \.\.\.\}"):
        load(tmp_path / "x.moe")
    loaded = load(tmp_path / "x.moe", custom_objects={"Halves": Halves})
    assert loaded.policy.moe[network].router_class is Halves
    arena.assert_same_weights(model.policy, loaded.policy)


LAST = Placement(name="last", meaning="experts in the last hidden layer", hidden=-1)


@pytest.mark.parametrize("placement", [LAST, {"pi": LAST, "vf": "none"}], ids=["all", "by_network"])
def test_a_placement_of_ones_own_is_data_and_lies_in_the_file(placement, tmp_path):
    model = arena.make("PPO", net_arch=[4], num_experts=2, placement=placement)
    sb3_moe.save(model, tmp_path / "x.moe")
    loaded = load(tmp_path / "x.moe")
    assert loaded.policy.moe_options["placement"] == placement
    obs = arena.observe(model)
    assert (arena.predict(loaded, obs) == arena.predict(model, obs)).all()


# What `load` is given wrongly, or lacks, is not blamed on the file.


def test_a_wrong_argument_is_not_blamed_on_the_file(tmp_path):
    sb3_moe.save(arena.make("PPO", net_arch=[4]), tmp_path / "x.moe")
    with pytest.raises(RuntimeError, match=r"^Expected one of cpu, cuda.*: gpu$"):
        sb3_moe.load(tmp_path / "x.moe", device="gpu")
    with pytest.raises(TypeError, match=r"^`custom_objects` must hold classes .*'learning_rate'; "):
        load(tmp_path / "x.moe", custom_objects={"learning_rate": 1e-5})


# Values and spaces by themselves.


def through_json(value):
    encoder = Encoder()
    said = json.dumps(encoder.encode("x", value), allow_nan=False)
    return Decoder(encoder.tensors, {}).decode("x", json.loads(said))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, np.inf, (2, 3), np.float64),
        spaces.Box(np.array([0, 3]), np.array([1, 9]), dtype=np.int16),
        spaces.Discrete(5, start=-2),
        spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [2, 3]]),
        spaces.MultiBinary([2, 3]),
        spaces.Text(7, min_length=0, charset="ßäx"),
        spaces.Dict({"b": spaces.Dict({"x": arena.FLAT}), "a": spaces.Discrete(2)}),
        spaces.Tuple([spaces.Discrete(2), spaces.Tuple([arena.IMAGE])]),
    ],
    ids=str,
)
def test_spaces_of_all_kinds_come_back(space):
    found = through_json(space)
    assert found == space
    assert found.dtype == space.dtype
    if isinstance(space, spaces.Dict):
        assert list(found.spaces) == list(space.spaces)


PLAIN = [None, True, 3, -0.1, float("inf"), "text", np.float64(1.5), np.float64]
NESTED = [[1, [2.5, None]], (1, ("a",)), {"a": {"tuple": [1]}, "dict": (1,), 3: {}}]


@pytest.mark.parametrize("value", PLAIN + NESTED, ids=repr)
def test_values_come_back_with_their_types(value):
    found = through_json(value)
    assert found == value
    assert type(found) is type(value)


def test_nan_and_arrays_come_back():
    value = {"nan": float("nan"), "array": np.arange(6, dtype=np.uint16).reshape(2, 3)}
    found = through_json(value)
    assert np.isnan(found["nan"])
    np.testing.assert_array_equal(found["array"], value["array"])
    assert found["array"].dtype == np.uint16


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({(1,): 2}, r"the key \(1,\) is no text"),
        (spaces.Sequence(spaces.Discrete(2)), r"`x` can't be saved without pickle: Sequence\("),
        ({"y": {1, 2}}, "`y` can't be saved without pickle"),
        ({"y": [np.array(["a"])]}, "^`y` can't be saved without pickle"),
        (np.complex128(1j), "^`x` can't be saved without pickle"),
        ([OwnPPO, type("OwnPPO", (PPO,), {})], "has the name of .* rename one"),
    ],
    ids=["keys", "space", "set", "texts", "complex", "names"],
)
def test_values_without_a_form_in_json_are_refused(value, text):
    with pytest.raises(ValueError, match=text):
        Encoder().encode("x", value)


def test_what_is_too_long_to_be_read_again_is_not_written():
    with pytest.raises(ValueError, match=r"must take at most .*: give long arguments as arrays"):
        pack({"x": "a" * MAX_HEADER}, {})


def test_views_of_one_tensor_are_written_each_by_itself(tmp_path):
    whole = th.arange(6.0).reshape(2, 3)
    views = {"all": whole, "row": whole[1], "turned": whole.T}
    (tmp_path / "x").write_bytes(pack({}, views))
    with (tmp_path / "x").open("rb") as file:
        found = unpack(file, 10**6)[1]
    th.testing.assert_close(found, views, rtol=0, atol=0)
