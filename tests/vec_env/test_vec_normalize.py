"""PerTaskVecNormalize: each task against SB3's VecNormalize on that task alone."""

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecNormalize,
    sync_envs_normalization,
    unwrap_vec_normalize,
)
from tiny import Steps

from sb3_moe.vec_env import GymnasiumVecEnv, MultiTaskReplayBuffer, make_multitask_vec_env
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize
from sb3_moe_envs import Interleave

SCALES = np.array([1.0, 1000.0])
LENGTH = 4


class Scales(VectorEnv):
    """Two tasks of very different scale; each slot changes task every LENGTH steps."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    num_tasks = 2
    task_names = ("small", "large")

    def __init__(self, mode="dict", num_envs=2, fixed=False):
        self.num_envs, self.fixed = num_envs, fixed
        self.task_id = mode
        self.rng = np.random.default_rng(0)
        self.single_action_space = spaces.Box(-1, 1, (1,))
        shapes = {"onehot": (5,), "channels": (2, 2, 5)}
        box = spaces.Box(-np.inf, np.inf, shapes.get(mode, (3,)))
        shown = spaces.Dict({"obs": box, "task_id": spaces.Discrete(2)})
        self.single_observation_space = shown if mode == "dict" else box

    def observation(self):
        shape = (2, 2, 3) if self.task_id == "channels" else (3,)
        obs = self.rng.normal(1, 1, (self.num_envs, *shape)).astype(np.float32)
        obs *= SCALES[self.task].reshape((-1,) + (1,) * len(shape))
        if self.task_id == "dict":
            return {"obs": obs, "task_id": self.task.copy()}
        if self.task_id == "info":
            return obs
        ids = np.broadcast_to(
            np.eye(2)[self.task].reshape((-1,) + (1,) * (len(shape) - 1) + (2,)),
            (*obs.shape[:-1], 2),
        )
        return np.concatenate([obs, ids], axis=-1, dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        self.task = np.arange(self.num_envs) % 2
        self.time = 0
        return self.observation(), {"task_id": self.task.copy()}

    def step(self, actions):
        self.time += 1
        rewards = SCALES[self.task] * self.rng.normal(1, 0.1, self.num_envs)
        done = np.full(self.num_envs, self.time % LENGTH == 0)
        info = {"final_obs": self.observation()} if done.any() else {}
        if done.any() and not self.fixed:
            self.task = 1 - self.task
        info["task_id"] = self.task.copy()
        return self.observation(), rewards, np.zeros_like(done), done, info

    def get_task(self):
        return self.task.copy()


def wrapped(mode="dict", **kwargs):
    return PerTaskVecNormalize(GymnasiumVecEnv(Scales(mode)), **kwargs)


def play(env, steps=40):
    record = [env.reset()]
    actions = np.zeros((env.num_envs, 1), np.float32)
    record.extend(env.step(actions) for _ in range(steps))
    return record


def test_with_a_task_per_slot_each_slot_is_normalized_as_vec_normalize_would_alone():
    ours = PerTaskVecNormalize(GymnasiumVecEnv(Scales(fixed=True)))
    alone = [VecNormalize(GymnasiumVecEnv(Scales("info", num_envs=1))) for _ in range(2)]
    obs, rewards, paid = ours.reset()["obs"], None, None
    for _ in range(LENGTH):
        raw = ours.get_original_obs()["obs"]
        for i, each in enumerate(alone):
            each.obs_rms.update(raw[i : i + 1])
            np.testing.assert_allclose(obs[i], each.normalize_obs(raw[i]), rtol=1e-5)
            if paid is not None:
                each._update_reward(paid[i : i + 1])
                np.testing.assert_allclose(rewards[i], each.normalize_reward(paid[i]), rtol=1e-5)
        shown, rewards, *_ = ours.step(np.zeros((2, 1), np.float32))
        obs, paid = shown["obs"], ours.get_original_reward()


@pytest.mark.parametrize("mode", ["dict", "onehot", "channels"])
def test_the_id_is_never_touched(mode):
    def split(obs):
        is_dict = mode == "dict"
        return (obs["obs"], obs["task_id"]) if is_dict else (obs[..., :-2], obs[..., -2:])

    env = wrapped(mode)
    env.reset()
    for _ in range(12):
        obs, _, dones, infos = env.step(np.zeros((2, 1), np.float32))
        (raw, before), (normalized, after) = split(env.get_original_obs()), split(obs)
        np.testing.assert_array_equal(before, after)
        assert not np.array_equal(raw, normalized)
        for info in infos if dones.any() else ():
            _, shown = split(info["terminal_observation"])
            wanted = info["task_id"] if mode == "dict" else np.eye(2)[info["task_id"]]
            np.testing.assert_array_equal(shown, np.broadcast_to(wanted, np.shape(shown)))


@pytest.mark.parametrize("mode", ["dict", "onehot", "channels", "info"])
def test_the_last_observation_is_normalized_by_the_task_that_ended(mode):
    env = wrapped(mode)
    for _, _, dones, infos in play(env, 120)[60:]:
        if dones.any():
            for info in infos:
                last = info["terminal_observation"]
                values = last["obs"] if mode == "dict" else last[..., :3]
                # by the other task's statistics it would be -1 / 1000 or 10 (clipped)
                assert np.abs(values).max() < 5
                assert np.abs(values).mean() > 0.05


def test_unnormalizing_gives_back_the_original():
    for mode in ("dict", "onehot", "channels"):
        env = wrapped(mode)
        obs = play(env)[-1][0]
        back, original = env.unnormalize_obs(obs), env.get_original_obs()
        if mode == "dict":
            back, original = back["obs"], original["obs"]
        np.testing.assert_allclose(back, original, rtol=1e-3, atol=0.05)
    rewards, ids = np.array([0.5, 0.5]), np.array([0, 1])
    normalized = env.normalize_reward(rewards, ids)
    np.testing.assert_allclose(env.unnormalize_reward(normalized, ids), rewards, rtol=1e-5)


def test_sb3_finds_saves_loads_and_synchronizes_it(tmp_path):
    env = wrapped()
    play(env)
    assert unwrap_vec_normalize(env) is env
    other = wrapped(training=False)
    sync_envs_normalization(env, other)
    np.testing.assert_array_equal(other.ret_rms.of([0, 1]).var, env.ret_rms.of([0, 1]).var)
    np.testing.assert_array_equal(
        other.obs_rms["obs"].of([1]).mean, env.obs_rms["obs"].of([1]).mean
    )
    env.save(tmp_path / "normalize.pkl")
    loaded = PerTaskVecNormalize.load(tmp_path / "normalize.pkl", GymnasiumVecEnv(Scales()))
    assert isinstance(loaded, PerTaskVecNormalize)
    obs = env.get_original_obs()
    np.testing.assert_array_equal(loaded.normalize_obs(obs)["obs"], env.normalize_obs(obs)["obs"])
    play(loaded)


def test_off_policy_rewards_are_normalized_by_the_stored_task():
    env = wrapped("dict", norm_obs=True)
    sizes = {"buffer_size": 400, "learning_starts": 20, "batch_size": 64}
    kept = {"replay_buffer_class": MultiTaskReplayBuffer}
    model = SAC("MultiInputPolicy", env, seed=0, device="cpu", **sizes, **kept)
    model.learn(120)
    buffer = model.replay_buffer
    stored = buffer.rewards.flatten().numpy()
    known = buffer.task_ids >= 0
    for task in (0, 1):
        mean = stored[known][buffer.task_ids[known] == task].mean()
        assert 0.8 < mean / SCALES[task] < 1.2
    batch = buffer.sample(200, env)
    ids = batch.observations["task_id"].numpy().ravel()
    small, large = (batch.rewards.numpy().ravel()[ids == task].mean() for task in (0, 1))
    assert 0.7 < small / large < 1.4


def test_a_buffer_that_keeps_no_tasks_is_refused_at_the_first_gradient_step():
    sizes = {"buffer_size": 100, "learning_starts": 4, "device": "cpu"}
    message = r"rewards .* SB3's own replay buffers don't keep: use sb3_moe\.vec_env\.MultiTask"
    with pytest.raises(ValueError, match=message):
        TD3("MultiInputPolicy", wrapped(), **sizes).learn(20)


def test_whole_numbers_are_not_normalized_since_buffers_would_cut_them_off():
    base = Scales()
    base.single_observation_space = spaces.Dict(
        base.single_observation_space.spaces | {"obs": spaces.Box(0, 9, (4,), np.int64)}
    )
    message = "`norm_obs` must be False for images and other whole numbers, since buffers would"
    with pytest.raises(ValueError, match=message):
        PerTaskVecNormalize(GymnasiumVecEnv(base))
    PerTaskVecNormalize(GymnasiumVecEnv(base), norm_obs=False)


def test_hidden_tasks_of_observations_are_refused_off_policy():
    arguments = {"replay_buffer_class": MultiTaskReplayBuffer, "buffer_size": 100, "device": "cpu"}
    arguments["learning_starts"] = 4
    with pytest.raises(ValueError, match=r"need `task_ids` .* off-policy .*: use norm_obs"):
        SAC("MlpPolicy", wrapped("info"), **arguments).learn(20)
    SAC("MlpPolicy", wrapped("info", norm_obs=False), **arguments).learn(12)


def loaded_with_three(tmp_path):
    wrapped().save(tmp_path / "normalize.pkl")
    three = Scales()
    three.num_tasks = 3
    return PerTaskVecNormalize.load(tmp_path / "normalize.pkl", GymnasiumVecEnv(three))


def loaded_in_another_order(tmp_path):
    tasks, path = ["CartPole-v1", "Acrobot-v1"], str(tmp_path / "normalize.pkl")
    PerTaskVecNormalize(make_multitask_vec_env(tasks, 2)).save(path)
    PerTaskVecNormalize.load(path, make_multitask_vec_env(tasks, 2))
    return PerTaskVecNormalize.load(path, make_multitask_vec_env(tasks[::-1], 2))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda _: PerTaskVecNormalize(DummyVecEnv([Steps])), "must hold multi-task environments"),
        (loaded_with_three, "`venv` must have num_tasks=2, got 3"),
        (loaded_in_another_order, r"`venv` must have the tasks in the order .*Acrobot'\], got"),
    ],
)
def test_what_cannot_be_normalized_is_refused_with_the_rule(build, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        build(tmp_path)


@pytest.mark.parametrize("schedule", [Interleave(), Interleave("episodes")], ids=str)
def test_hidden_tasks_are_asked_for(schedule):
    venv = make_multitask_vec_env(
        ["CartPole-v1", "Acrobot-v1"], 4, 0, task_id="none", schedule=schedule
    )
    env = PerTaskVecNormalize(venv)
    assert env.task_id_mode == "hidden"
    env.reset()
    for _ in range(60):
        before = env._task_ids.tolist()
        infos = env.step(np.ones(4, int))[3]
        assert [info["task_id"] for info in infos] == before
    assert env.observation_space.shape == (6,)
