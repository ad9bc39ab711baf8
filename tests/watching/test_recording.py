"""A replay holds what the policy decided and what the environment gave."""

import json

import arena
import gymnasium as gym
import numpy as np
import pytest
import shown
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import NormalizeReward, RecordVideo, TransformReward
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecNormalize

import sb3_moe
from sb3_moe.policies.registration import TABLE
from sb3_moe.vec_env import make_multitask_vec_env
from sb3_moe.vec_env.evaluating import OF_ATARI
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize
from sb3_moe_envs import Cycle, MultiTaskEnv


class Seen(gym.ObservationWrapper):
    """Keeps every observation and reward."""

    def __init__(self, env):
        super().__init__(env)
        self.observations, self.rewards = [], []

    def observation(self, observation):
        self.observations.append(observation)
        return observation

    def step(self, action):
        observation, reward, *rest = super().step(action)
        self.rewards.append(reward)
        return observation, reward, *rest


@pytest.fixture(scope="module")
def model():
    """An agent of two tasks that learns nothing; tests leave it as it is."""
    return shown.agent()


@pytest.fixture(scope="module")
def single():
    """An agent of one task without a Dict."""
    return shown.agent(shown.Shown(), "MoeMlpPolicy")


def test_gates_rewards_and_values_are_those_of_the_policy_and_the_environment(single):
    env = Seen(shown.Shown(render_mode="rgb_array"))
    [run] = sb3_moe.watch(single, env, episodes=2, deterministic=False).runs
    [track] = run.tracks
    seen = np.stack(env.observations)[[*range(7), *range(8, 15)]]  # without those after an end
    assert len(track) == 14
    np.testing.assert_allclose(track.rewards_T, np.float32(env.rewards))
    assert track.starts_T.nonzero()[0].tolist() == [0, 7]
    np.testing.assert_allclose(track.returns, np.reshape(env.rewards, (2, 7)).sum(1), rtol=1e-6)
    for name, routing in single.policy.routing(seen).items():
        gates_TE = routing.gates_BNE.mean(1).numpy()
        np.testing.assert_allclose(track.gates[name], gates_TE, rtol=1e-5, atol=1e-7)
    with th.no_grad():
        tensors = single.policy.obs_to_tensor(seen)[0]
        values = single.policy.predict_values(tensors).numpy()
        probs = single.policy.get_distribution(tensors).distribution.probs.numpy()
    np.testing.assert_allclose(track.values_TV, values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(track.preferences[0], probs, rtol=1e-5, atol=1e-6)
    assert [frame[0, 0, 0] for frame in track.frames] == [30 * k for k in range(7)]
    assert track.frame_T.tolist() == [*range(7)] * 2


@pytest.mark.parametrize("algorithm", TABLE)
def test_every_algorithm_can_be_watched_and_without_an_expert(algorithm):
    alias = "MoeMlpLstmPolicy" if algorithm == "RecurrentPPO" else "MoeMlpPolicy"
    model = arena.make(algorithm, alias, num_experts=3, net_arch=[6])
    network = "qf" if "DQN" in algorithm else "pi"
    env = arena.default_env(algorithm, alias)
    replay = sb3_moe.watch(model, env, without=[f"{network}:1"])
    for name, gates_TE in replay.runs[1].tracks[0].gates.items():
        assert (gates_TE[:, 1] == 0).all() == name.startswith(network)
    [track] = replay.runs[0].tracks
    assert len(track) == 6
    assert set(track.gates) == set(model.policy.moe_layers())
    for gates_TE in track.gates.values():
        np.testing.assert_allclose(gates_TE.sum(1), 1, rtol=1e-5)
    assert track.values_TV.shape == (6, len(replay.critics))
    if replay.kind == "probability":
        np.testing.assert_allclose(track.preferences[0].sum(1), 1, rtol=1e-5)
    # Deterministic agents do what they prefer.
    if replay.kind == "mean":
        np.testing.assert_allclose(track.actions_TD, track.preferences[0].clip(-1, 1), atol=1e-5)
    else:
        assert track.actions_TD[:, 0].tolist() == track.preferences[0].argmax(1).tolist()


def test_a_recurrent_policys_values_are_those_of_its_memory():
    model = arena.make("RecurrentPPO", "MoeMlpLstmPolicy", num_experts=3, net_arch=[6])
    env = Seen(arena.default_env("RecurrentPPO", "MoeMlpLstmPolicy"))
    [track] = sb3_moe.watch(model, env).runs[0].tracks
    policy, values = model.policy, []
    layers, _, width = policy.lstm_hidden_state_shape
    zeros = th.zeros(layers, 1, width)
    states, start = RNNStates((zeros, zeros), (zeros, zeros)), th.ones(1)
    for obs in env.observations[:6]:
        with th.no_grad():
            tensor = policy.obs_to_tensor(obs)[0]
            _, value, _, states = policy.forward(tensor, states, start, deterministic=True)
        values.append(value.item())
        start = th.zeros(1)
    np.testing.assert_allclose(track.values_TV[:, 0], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "kind", "layers"),
    [(DQN, "value", "qf"), (SAC, "mean", "pi"), (PPO, "probability", "pi")],
)
def test_dense_policies_of_sb3_are_watched_too(make, kind, layers):
    actions = arena.BOX if make is SAC else arena.DISCRETE
    env, other = (arena.Arena(arena.FLAT, actions) for _ in range(2))
    sizes = {} if make is PPO else {"buffer_size": 100}
    replay = sb3_moe.watch(make("MlpPolicy", env, seed=0, **sizes), other)
    assert (replay.kind, replay.mixtures) == (kind, [])
    assert replay.no_frames == "the environment was built without render_mode='rgb_array'"
    [track] = replay.runs[0].tracks
    assert track.frame_T.tolist() == [-1] * 6
    assert [each.layer for each in track.dormant][:2] == [f"{layers}.0", f"{layers}.1"]


def test_mean_actions_are_in_the_units_of_the_environment():
    model = SAC("MoeMlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [4]}, device="cpu")
    replay = sb3_moe.watch(model, max_steps=5, frames=False)
    [track] = replay.runs[0].tracks
    np.testing.assert_allclose(track.preferences[0], track.actions_TD, rtol=1e-5)
    assert replay.bounds == [2.0]
    own, env = (arena.Arena(arena.FLAT, spaces.Box(-3, 3, (2, 3))) for _ in range(2))
    [track] = sb3_moe.watch(SAC("MlpPolicy", own, buffer_size=9), env, max_steps=3).runs[0].tracks
    np.testing.assert_allclose(track.preferences[0], track.actions_TD, rtol=1e-5)


def sizes_drawn(track):
    """Return how high the task's own pictures are, which are black only in the first step."""
    return {int((frame > 0).any((1, 2)).sum()) for frame in track.frames if frame.any()}


def test_every_task_is_played_in_an_environment_of_its_own_whatever_training_plays_now():
    model = shown.agent(shown.two_tasks(schedule=Cycle(steps_per_task=64)))
    replay = sb3_moe.watch(model, episodes=2)
    assert replay.no_frames is None
    tracks = replay.runs[0].tracks
    assert [track.task for track in tracks] == replay.task_names
    assert [*map(sizes_drawn, tracks)] == [{8}, {16}]
    assert [len(track.returns) for track in tracks] == [2, 2]


def test_a_lone_multi_task_environment_is_played_task_by_task(model):
    tasks = [("Shown-v0", {"size": 8}), ("Shown-v0", {"size": 16})]
    replay = sb3_moe.watch(model, MultiTaskEnv(tasks, render_mode="rgb_array"), episodes=3)
    tracks = replay.runs[0].tracks
    assert [*map(sizes_drawn, tracks)] == [{8}, {16}]
    assert [np.flatnonzero(track.starts_T).tolist() for track in tracks] == [[0, 7, 14]] * 2
    assert [len(track.returns) for track in tracks] == [3, 3]


@pytest.mark.parametrize("wanted", ["name", np.int64(1)], ids=str)
def test_some_tasks_can_be_chosen_and_episodes_are_cut(model, wanted):
    names = model.get_env().get_attr("task_names")[0]
    replay = sb3_moe.watch(model, tasks=names[1] if wanted == "name" else wanted, max_steps=4)
    [track] = replay.runs[0].tracks
    assert (track.task, len(track), track.returns) == (names[1], 4, [])
    assert repr(replay) == f"Replay({replay.title!r}, tasks={names[1:]}, steps=4)"


def test_a_lost_life_begins_no_episode_and_the_return_is_the_games(single):
    class Game(shown.Shown):
        def step(self, action):
            obs, _, over, _, _ = super().step(action)
            lost = over or self.count == 3
            score = {OF_ATARI: True, "game_over": over, "score": 10.0 * self.count}
            return obs, 1.0, lost, False, score  # a clipped reward

        def reset(self, **kwargs):  # the game goes on with the next life
            count = self.count
            found = super().reset(**kwargs)
            self.count = count % shown.LENGTH
            return found

    [track] = sb3_moe.watch(single, Game()).runs[0].tracks
    assert np.flatnonzero(track.starts_T).tolist() == [0]
    assert track.returns == [70.0]


def test_with_and_without_an_expert_begin_alike_and_only_its_gates_are_zero(model):
    whole, lacking = sb3_moe.watch(model, without="pi:2", deterministic=False).runs
    assert lacking.label == "without expert 2 of pi"
    assert lacking.off == {"pi.middle": [2]}
    for a, b in zip(whole.tracks, lacking.tracks, strict=True):
        assert (a.gates["pi.middle"][:, 2] > 0).all()
        assert (b.gates["pi.middle"][:, 2] == 0).all()
        np.testing.assert_allclose(a.gates["vf.middle"][0], b.gates["vf.middle"][0], rtol=1e-6)
        np.testing.assert_array_equal(a.frames[0], b.frames[0])


def test_the_same_seed_gives_the_same_replay_and_training_goes_on_as_without_it():
    other = shown.agent().learn(64)
    watched = shown.agent()
    first, second = (sb3_moe.watch(watched, deterministic=False).runs[0].tracks for _ in range(2))
    np.testing.assert_array_equal(first[0].actions_TD, second[0].actions_TD)
    watched.learn(64)
    arena.assert_same_weights(watched.policy, other.policy)


@pytest.mark.parametrize("given", ["the model's own", "what is within it", "what it was made with"])
def test_training_goes_on_from_where_it_was_after_its_own_environment_was_given(given):
    def trained():
        env = gym.make("Shown-v0")
        return env, shown.agent(env, "MoeMlpPolicy").learn(32)  # in the middle of an episode

    env, watched = trained()
    own = watched.get_env()
    played = {"the model's own": own, "what is within it": own.unwrapped}.get(given, env)
    [track] = sb3_moe.watch(watched, played).runs[0].tracks
    assert len(track) == 7
    assert track.frames  # of one that was built with images
    assert env.unwrapped.count == 32 % 7
    watched.learn(32, reset_num_timesteps=False)
    _, other = trained()
    other.learn(32, reset_num_timesteps=False)
    arena.assert_same_weights(watched.policy, other.policy)


class Unsaid(gym.Wrapper):
    """A wrapper that doesn't say how it was built."""


class Around(VecEnvWrapper):
    """A wrapper of a kind that nobody knows how to copy."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        return self.venv.step_wait()


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (shown.Shown, "gymnasium.make didn't build it"),
        (lambda: Unsaid(gym.make("Shown-v0")), "Unsaid around it doesn't record its arguments"),
        (lambda: NormalizeReward(gym.make("Shown-v0")), "NormalizeReward around it has running st"),
        (lambda: Around(DummyVecEnv([lambda: gym.make("Shown-v0")])), "Around around it can't be"),
    ],
)
def test_the_models_own_environment_is_refused_where_it_cant_be_made_again(build, why):
    model = shown.agent(build(), "MoeMlpPolicy")
    rule = f"`env` must be given, since the model's own can't be built again: {why}"
    for env in (None, model.get_env()):
        with pytest.raises(ValueError, match=rule):
            sb3_moe.watch(model, env)
    assert len(sb3_moe.watch(model, shown.Shown()).runs[0].tracks[0]) == 7


def test_returns_are_those_that_the_models_own_monitor_sees():
    scale = {"func": lambda reward: 0.01 * reward}
    env = make_vec_env("CartPole-v1", 1, wrapper_class=TransformReward, wrapper_kwargs=scale)
    [track] = sb3_moe.watch(shown.agent(env, "MoeMlpPolicy"), frames=False).runs[0].tracks
    assert track.returns == [len(track)]
    np.testing.assert_allclose(track.rewards_T, 0.01)


def test_a_compiled_policy_is_watched_as_it_was_before(single, monkeypatch):
    before = sb3_moe.watch(single, shown.Shown(), without="pi:0")
    monkeypatch.setattr(single, "policy", th.compile(single.policy, backend="eager"))
    after = sb3_moe.watch(single, shown.Shown(), without="pi:0")
    assert after.mixtures == before.mixtures != []
    for a, b in zip(after.runs, before.runs, strict=True):
        np.testing.assert_array_equal(
            a.tracks[0].gates["pi.middle"], b.tracks[0].gates["pi.middle"]
        )


def test_a_model_without_an_environment_must_be_given_one_or_its_id(single, monkeypatch):
    monkeypatch.setattr(single, "env", None)
    with pytest.raises(ValueError, match="`env` must be given, since the model has no environment"):
        sb3_moe.watch(single)
    assert len(sb3_moe.watch(single, "Shown-v0", max_steps=3).runs[0].tracks[0]) == 3


def test_an_environment_with_other_actions_is_refused(single):
    other = gym.wrappers.TransformAction(shown.Shown(), lambda action: 0, gym.spaces.Discrete(7))
    with pytest.raises(ValueError, match=r"Action spaces do not match: .* != Discrete\(7\)"):
        sb3_moe.watch(single, other)


PICTURE = np.zeros((4, 4, 3), np.uint8)


def draws(*pictures):
    """Return an environment that draws these, the last of them for ever, or raises one of them."""

    class Drawing(shown.Shown):
        def render(self):
            found = pictures[min(self.count, len(pictures) - 1)]
            if isinstance(found, Exception):
                raise found
            return found

    return Drawing(render_mode="rgb_array")


@pytest.mark.parametrize(
    ("pictures", "why", "drawn"),
    [
        ([NotImplementedError()], "a task draws nothing with render_mode='rgb_array'", 0),
        ([PICTURE, PICTURE, OSError("no\n  screen")], "no screen", 2),
        ([PICTURE, "a text"], "`render()` must give an array (height, width)", 1),
    ],
)
def test_what_cant_be_drawn_at_some_step_is_played_on_without_pictures(
    pictures, why, drawn, single
):
    replay = sb3_moe.watch(single, draws(*pictures), without=["pi:0"])
    assert why in replay.no_frames
    assert json.dumps(why)[1:-1] in replay.to_html()
    # Each run has pictures as far as they can be drawn, to be compared.
    for run in replay.runs:
        assert (run.tracks[0].frame_T >= 0).tolist() == [k < drawn for k in range(shown.LENGTH)]


def test_a_class_that_takes_no_render_mode_is_built_again_without_one(monkeypatch):
    spec = gym.envs.registration.EnvSpec("Blind-v0", entry_point=lambda: shown.Shown())
    monkeypatch.setitem(gym.registry, "Blind-v0", spec)
    replay = sb3_moe.watch(shown.agent(gym.make("Blind-v0"), "MoeMlpPolicy"), max_steps=2)
    assert len(replay.runs[0].tracks[0]) == 2
    assert "unexpected keyword argument 'render_mode'" in replay.no_frames


def test_films_of_the_training_stay_as_they_are(tmp_path):
    drawn = gym.make("Shown-v0", render_mode="rgb_array", size=16)
    env = RecordVideo(drawn, tmp_path / "films", lambda episode: episode == 0, name_prefix="mine")
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=16, seed=0).learn(16)
    [film] = (tmp_path / "films").iterdir()
    before = film.read_bytes()
    assert sb3_moe.watch(model).no_frames is None
    assert [each.read_bytes() for each in film.parent.iterdir()] == [before]


def normalized(**kwargs):
    return VecNormalize(DummyVecEnv([lambda: gym.make("Shown-v0")]), **kwargs)


def test_a_normalizer_is_taken_along_and_learns_nothing():
    env = normalized()
    model = shown.agent(env, "MoeMlpPolicy").learn(32)
    count, seen = env.obs_rms.count, []
    for given in (None, env):
        [track] = sb3_moe.watch(model, given).runs[0].tracks
        assert (env.obs_rms.count, env.training) == (count, True)
        # Rewards are the environment's own.
        rewards = 0.1 * track.actions_TD[:, 0] * np.arange(1, 8)
        np.testing.assert_allclose(track.rewards_T, rewards, rtol=1e-5)
    other = normalized(gamma=0.5)  # another environment takes the statistics meanwhile
    before, normalize = other.obs_rms, other.normalize_obs
    other.normalize_obs = lambda obs: seen.append(other.obs_rms.mean) or normalize(obs)
    sb3_moe.watch(model, other)
    np.testing.assert_array_equal(seen[0], env.obs_rms.mean)
    assert (other.obs_rms is before, other.training, other.norm_reward) == (True, True, True)


def test_an_environment_that_shows_other_numbers_than_training_did_is_refused(single):
    model, rule = shown.agent(normalized(), "MoeMlpPolicy"), "must be normalized as in training"
    with pytest.raises(ValueError, match=rf"{rule}.* by VecNormalize of all, got nothing"):
        sb3_moe.watch(model, "Shown-v0")
    with pytest.raises(ValueError, match=rf"{rule}.* by nothing, got VecNormalize"):
        sb3_moe.watch(single, normalized())
    sb3_moe.watch(single, normalized(norm_obs=False), max_steps=2)
    tasks = [lambda: gym.make("Shown-v0")] * 2
    each_its_own = PerTaskVecNormalize(make_multitask_vec_env(tasks, 2, seed=0))
    other = VecNormalize(make_multitask_vec_env(tasks, 2, seed=0), norm_obs_keys=["obs"])
    with pytest.raises(ValueError, match=rf"{rule}.* by PerTaskVecNormalize of \['obs'\]"):
        sb3_moe.watch(shown.agent(each_its_own, "MoeMultiInputPolicy"), other)


def test_dormant_units_are_measured_on_what_the_agent_saw():
    model = shown.agent()
    with th.no_grad():
        layer = model.policy.moe_layers()["pi.middle"]
        for name, parameter in layer.experts.named_parameters():
            if "0" in name:
                parameter[1] = 0  # expert 1's hidden layer is silent
    [track, _] = sb3_moe.watch(model).runs[0].tracks
    dormant = {each.layer: each for each in track.dormant}
    assert dormant["pi.0"].per_expert[1] == 1
    assert dormant["pi.0"].share >= 1 / 3


def test_an_expert_that_is_off_or_not_the_tasks_got_no_rows():
    replay = sb3_moe.watch(
        shown.agent(router="task", num_experts=None), without="pi:0", max_steps=3
    )
    reached = [each.reached for run in replay.runs for each in (run.tracks[0].dormant[0],)]
    assert reached == [(True, False), (False, False)]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"episodes": 0}, "`episodes` must be at least 1, got 0"),
        ({"tasks": 2}, r"`tasks` must be among \['.*'\], got 2"),
        ({"without": "pi:x"}, "`without` must name .* 'pi.middle:2', got 'pi:x'"),
        ({"without": ["pi:7"]}, r"`expert` must be in \[0, num_experts=3\) of pi.middle, got 7"),
    ],
)
def test_a_wrong_argument_is_named(kwargs, message, model):
    with pytest.raises(ValueError, match=message):
        sb3_moe.watch(model, **kwargs)
