"""The device-resident buffers against SB3's own, and the balance of the multi-task one."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import (
    DictReplayBuffer,
    DictRolloutBuffer,
    ReplayBuffer,
    RolloutBuffer,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tiny import Sampled

from sb3_moe.vec_env import DeviceReplayBuffer, DeviceRolloutBuffer, MultiTaskReplayBuffer
from sb3_moe.vec_env.kept_rows import RecentRows
from sb3_moe.vec_env.replay_buffers import end_running_episodes

IMAGE = spaces.Box(0, 255, (4, 4, 2), np.uint8)
DICT = spaces.Dict({"obs": spaces.Box(-1, 1, (3,)), "task_id": spaces.Discrete(3)})
OBSERVATIONS = [IMAGE, spaces.Box(-1, 1, (3,), np.float64), spaces.Discrete(5), DICT]
ACTIONS = [spaces.Discrete(4), spaces.Box(-1, 1, (2,)), spaces.MultiBinary(3)]
STEPS, N_ENVS = 6, 2


def assert_same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(theirs, th.Tensor):
        assert ours.dtype == theirs.dtype
        th.testing.assert_close(ours, theirs, rtol=0, atol=0)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif theirs is not None:
        for mine, other in zip(ours, theirs, strict=True):
            assert_same(mine, other)


def sample_batch(space):
    if isinstance(space, spaces.Dict):
        return {key: sample_batch(entry) for key, entry in space.spaces.items()}
    return np.stack([space.sample() for _ in range(N_ENVS)])


def seeded(*some_spaces):
    for seed, space in enumerate(some_spaces):
        space.seed(seed)
    return np.random.default_rng(0)


def fill_rollout(buffer, observation_space, action_space):
    rng = seeded(observation_space, action_space)
    for _ in range(STEPS):
        buffer.add(
            sample_batch(observation_space),
            sample_batch(action_space),
            rng.normal(size=N_ENVS),
            rng.random(N_ENVS) < 0.3,
            th.as_tensor(rng.normal(size=(N_ENVS, 1)), dtype=th.float32),
            th.as_tensor(rng.normal(size=N_ENVS), dtype=th.float32),
        )
    buffer.compute_returns_and_advantage(th.ones(N_ENVS, 1), np.array([True, False]))


def minibatches(buffer, batch_size):
    np.random.seed(0)
    return [list(buffer.get(batch_size)) for _ in range(2)]


@pytest.mark.parametrize("action_space", ACTIONS, ids=str)
@pytest.mark.parametrize("observation_space", OBSERVATIONS, ids=str)
def test_a_rollout_on_the_device_has_sb3s_content_in_sb3s_order(observation_space, action_space):
    plain = DictRolloutBuffer if observation_space is DICT else RolloutBuffer
    arguments = (STEPS, observation_space, action_space, "cpu", 0.9, 0.99, N_ENVS)
    ours, theirs = DeviceRolloutBuffer(*arguments), plain(*arguments)
    for _ in range(2):  # the second rollout overwrites the first
        for buffer in (ours, theirs):
            buffer.reset()
            fill_rollout(buffer, observation_space, action_space)
        assert_same(minibatches(ours, 5), minibatches(theirs, 5))
        assert_same(minibatches(ours, None), minibatches(theirs, None))
        np.testing.assert_array_equal(ours.returns, theirs.returns)


def transitions(observation_space, action_space, count, task=None):
    rng = seeded(observation_space, action_space)
    for t in range(count):
        done = rng.random(N_ENVS) < 0.4
        cut = done & (rng.random(N_ENVS) < 0.5)
        task_ids = rng.integers(3, size=N_ENVS) if task is None else task(t)
        told = zip(cut.tolist(), map(int, task_ids), strict=True)
        infos = [{"TimeLimit.truncated": each, "task_id": k} for each, k in told]
        batches = [*map(sample_batch, (observation_space, observation_space, action_space))]
        yield *batches, rng.normal(size=N_ENVS), done, infos


def sb3s(space):
    return DictReplayBuffer if space is DICT else ReplayBuffer


def filled(kinds, space, count, size=10, action_space=ACTIONS[0], device="cpu", **options):
    """Build a buffer of each kind, all with the same transitions."""
    buffers = [kind(size, space, action_space, device, N_ENVS, **options) for kind in kinds]
    for buffer in buffers:
        for transition in transitions(space, action_space, count):
            buffer.add(*transition)
    return buffers


def samples(buffer, env=None):
    np.random.seed(1)
    return [buffer.sample(7, env) for _ in range(2)]


@pytest.mark.parametrize("action_space", ACTIONS, ids=str)
@pytest.mark.parametrize("observation_space", OBSERVATIONS, ids=str)
@pytest.mark.parametrize("count", [3, 8])
def test_a_replay_on_the_device_has_sb3s_content_in_sb3s_order(
    observation_space, action_space, count
):
    kinds = DeviceReplayBuffer, sb3s(observation_space)
    for kept in (True, False):
        options = {"action_space": action_space, "handle_timeout_termination": kept}
        ours, theirs = filled(kinds, observation_space, count, 5 * N_ENVS + 1, **options)
        assert (ours.pos, ours.full, ours.size()) == (theirs.pos, theirs.full, theirs.size())
        assert_same(samples(ours), samples(theirs))


@pytest.mark.parametrize("observation_space", [OBSERVATIONS[1], DICT], ids=str)
def test_vec_normalize_normalizes_a_batch_as_it_does_sb3s(observation_space):
    env = VecNormalize(
        DummyVecEnv([lambda: Sampled(observation_space)]),
        norm_obs_keys=["obs"] if observation_space is DICT else None,
    )
    env.reset()
    for _ in range(5):
        env.step(np.zeros(1, int))
    ours, theirs = filled((DeviceReplayBuffer, sb3s(observation_space)), observation_space, 3, 8)
    assert_same(samples(ours, env), samples(theirs, env))


@pytest.mark.parametrize(
    ("algorithm", "env_id"), [(DQN, "CartPole-v1"), (SAC, "Pendulum-v1")], ids=["DQN", "SAC"]
)
def test_off_policy_training_on_it_gives_the_same_weights(algorithm, env_id):
    def train(replay_buffer_class):
        env, options = make_vec_env(env_id, 2, seed=0), {"learning_starts": 20, "batch_size": 8}
        options |= {"policy_kwargs": {"net_arch": [8]}, "replay_buffer_class": replay_buffer_class}
        model = algorithm("MlpPolicy", env, buffer_size=60, seed=0, device="cpu", **options)
        return list(model.learn(100).policy.parameters())

    assert_same(train(DeviceReplayBuffer), train(ReplayBuffer))


@pytest.mark.cuda
@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_batches_are_there_and_equal_sb3s():
    ours, theirs = filled((DeviceReplayBuffer, DictReplayBuffer), DICT, 4, device="cuda")
    assert ours.observations["obs"].is_cuda
    assert_same(samples(ours), samples(theirs))
    assert_same(samples(pickle.loads(pickle.dumps(ours))), samples(theirs))
    rollouts = [
        kind(STEPS, DICT, spaces.Discrete(2), "cuda", 0.9, 0.99, N_ENVS)
        for kind in (DeviceRolloutBuffer, DictRolloutBuffer)
    ]
    for rollout in rollouts:
        fill_rollout(rollout, DICT, spaces.Discrete(2))
    assert_same(*(minibatches(rollout, 5) for rollout in rollouts))


def test_each_stored_task_is_drawn_equally_often():
    buffer = MultiTaskReplayBuffer(400, DICT, spaces.Discrete(2), "cpu", N_ENVS)
    # task 2 makes one step in fifty
    for transition in transitions(DICT, spaces.Discrete(2), 100, lambda t: [2 * (t % 25 == 0), 0]):
        buffer.add(*transition)
    np.random.seed(0)
    drawn = buffer.task_ids[buffer._places.draw(4000)]
    assert set(drawn) == {0, 2}
    assert abs((drawn == 2).mean() - 0.5) < 0.03


def test_without_balance_it_samples_as_sb3_does():
    ours, theirs = filled(
        (partial(MultiTaskReplayBuffer, balance=False), DictReplayBuffer), DICT, 4
    )
    assert_same(samples(ours), samples(theirs))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), min_size=1, max_size=30))
def test_all_that_is_stored_is_drawn_and_nothing_else(tasks_by_step):
    buffer = MultiTaskReplayBuffer(8, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), "cpu", 2)
    zeros = np.zeros((2, 1), np.float32)
    for tasks in tasks_by_step:
        infos = [{"task_id": task} for task in tasks]
        buffer.add(zeros, zeros, np.zeros(2, int), np.zeros(2), np.zeros(2, bool), infos)
    drawn = set(buffer._places.draw(2000).tolist())
    assert drawn == set(np.flatnonzero(buffer.task_ids >= 0).tolist())


def test_an_environment_of_one_task_is_refused():
    model = SAC("MlpPolicy", "Pendulum-v1", replay_buffer_class=MultiTaskReplayBuffer)
    with pytest.raises(ValueError, match=r"needs info\['task_id'\], got \['TimeLimit.trunc"):
        model.learn(1)


def test_what_is_kept_on_the_device_is_kept_twice():
    with pytest.raises(ValueError, match="`optimize_memory_usage` must be False"):
        DeviceReplayBuffer(10, IMAGE, spaces.Discrete(2), optimize_memory_usage=True)


@pytest.mark.parametrize("kept", [True, False])
def test_an_episode_that_is_cut_ends_as_one_at_a_time_limit_does(kept):
    options = {"optimize_memory_usage": not kept, "handle_timeout_termination": kept}
    (sb3,) = filled([ReplayBuffer], IMAGE, 3, **options)
    end_running_episodes(sb3)
    assert (sb3.dones[2] + kept * sb3.timeouts[2]).all()
    end_running_episodes(object())  # of the user's own: it may keep what it likes


def test_rows_that_were_kept_go_on_in_the_number_they_began_with():
    kept = {}
    RecentRows(4, kept).add(0, {"x": np.arange(8)})
    assert RecentRows(4, kept).latest()["x"].tolist() == [0]
    RecentRows(5, kept).add(1, {"x": np.arange(8)})
    assert RecentRows(5, kept).latest()["x"].tolist() == [0, 1]
    assert len(kept["x"]) == 4


def test_a_model_saves_and_loads_its_device_buffer(tmp_path):
    env = make_vec_env("CartPole-v1", 2, seed=0)
    model = DQN("MlpPolicy", env, buffer_size=40, replay_buffer_class=DeviceReplayBuffer, seed=0)
    model.learn(30)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    before = samples(model.replay_buffer)
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    assert_same(samples(model.replay_buffer), before)


def test_a_replay_buffer_follows_its_model_to_another_device_of_the_same_kind(monkeypatch):
    space = spaces.Box(-1, 1, (3,))
    buffer = DeviceReplayBuffer(9, space, spaces.Discrete(2), "meta", n_envs=N_ENVS)
    moved = []
    to = th.Tensor.to

    def noted(tensor, device):
        moved.append(device)
        return to(tensor, device)

    # Without values, and without an index of its own: what torch is asked for tells.
    monkeypatch.setattr(th.Tensor, "to", noted)
    first, second = transitions(space, spaces.Discrete(2), 2)
    buffer.add(*first)
    assert not moved
    buffer.device = th.device("meta:1")
    buffer.add(*second)
    assert moved == [th.device("meta:1")] * 6
