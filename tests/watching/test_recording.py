"""A replay holds what the policy decided and what the environment gave."""

import json
import re
from functools import partial

import arena
import gymnasium as gym
import numpy as np
import pytest
import shown
import torch as th
from gymnasium.wrappers import HumanRendering, RecordVideo
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnvWrapper,
    VecNormalize,
)

import sb3_moe
from sb3_moe.policies.registration import TABLE
from sb3_moe.vec_env import make_multitask_vec_env
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize
from sb3_moe.watching import expert_importance
from sb3_moe.watching.record import expert_named
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


def test_gates_rewards_and_values_are_those_of_the_policy_and_the_environment():
    env = Seen(shown.Shown(render_mode="rgb_array"))
    model = shown.agent(shown.Shown(), "MoeMlpPolicy")
    [run] = sb3_moe.watch(model, env, episodes=2, deterministic=False).runs
    [track] = run.tracks
    seen = np.stack(env.observations)[[*range(7), *range(8, 15)]]  # without those after an end
    assert len(track) == 14
    np.testing.assert_allclose(track.rewards_T, np.float32(env.rewards))
    assert track.starts_T.nonzero()[0].tolist() == [0, 7]
    np.testing.assert_allclose(track.returns, np.reshape(env.rewards, (2, 7)).sum(1), rtol=1e-6)
    for name, routing in model.policy.routing(seen).items():
        np.testing.assert_allclose(
            track.gates[name], routing.gates_BNE.mean(1).numpy(), rtol=1e-5, atol=1e-7
        )
    with th.no_grad():
        tensors = model.policy.obs_to_tensor(seen)[0]
        values = model.policy.predict_values(tensors).numpy()
        probs = model.policy.get_distribution(tensors).distribution.probs.numpy()
    np.testing.assert_allclose(track.values_TV, values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(track.preferences[0], probs, rtol=1e-5, atol=1e-6)
    assert [frame[0, 0, 0] for frame in track.frames] == [30 * k for k in range(7)]
    assert track.frame_T.tolist() == [*range(7)] * 2


@pytest.mark.parametrize("algorithm", TABLE)
def test_every_algorithm_can_be_watched_and_without_an_expert(algorithm):
    alias = "MoeMlpLstmPolicy" if algorithm == "RecurrentPPO" else "MoeMlpPolicy"
    model = arena.make(algorithm, alias, num_experts=3, net_arch=[6])
    env = arena.default_env(algorithm, alias)
    tower = "qf" if "DQN" in algorithm else "pi"
    replay = sb3_moe.watch(model, env, without=[f"{tower}:1"])
    for name, gates_TE in replay.runs[1].tracks[0].gates.items():
        assert (gates_TE[:, 1] == 0).all() == name.startswith(tower)
    [track] = replay.runs[0].tracks
    assert len(track) == 6
    assert set(track.gates) == set(model.policy.moe_layers())
    for gates_TE in track.gates.values():
        np.testing.assert_allclose(gates_TE.sum(1), 1, rtol=1e-5)
    assert track.values_TV.shape == (6, len(replay.critics))
    if replay.kind == "probability":
        np.testing.assert_allclose(track.preferences[0].sum(1), 1, rtol=1e-5)
    # Deterministic agents do what they prefer.
    best = track.preferences[0].argmax(1)
    if replay.kind == "mean":
        np.testing.assert_allclose(track.actions_TD, track.preferences[0].clip(-1, 1), atol=1e-5)
    else:
        assert track.actions_TD[:, 0].tolist() == best.tolist()


def test_a_recurrent_policys_values_are_those_of_its_memory():
    model = arena.make("RecurrentPPO", "MoeMlpLstmPolicy", num_experts=3, net_arch=[6])
    env = Seen(arena.default_env("RecurrentPPO", "MoeMlpLstmPolicy"))
    [track] = sb3_moe.watch(model, env).runs[0].tracks
    policy, values = model.policy, []
    layers, _, width = policy.lstm_hidden_state_shape
    zeros = th.zeros(layers, 1, width)
    from sb3_contrib.common.recurrent.type_aliases import RNNStates

    states, start = RNNStates((zeros, zeros), (zeros, zeros)), th.ones(1)
    for obs in env.observations[:6]:
        with th.no_grad():
            tensor = policy.obs_to_tensor(obs)[0]
            _, value, _, states = policy.forward(tensor, states, start, deterministic=True)
        values.append(value.item())
        start = th.zeros(1)
    np.testing.assert_allclose(track.values_TV[:, 0], values, rtol=1e-5, atol=1e-6)


def test_every_task_is_played_in_a_copy_of_its_own_whatever_training_plays_now():
    model = shown.agent(shown.two_tasks(schedule=Cycle(steps_per_task=64)))
    replay = sb3_moe.watch(model, episodes=2)
    assert replay.no_frames is None
    tracks = replay.runs[0].tracks
    assert [track.task for track in tracks] == replay.task_names
    assert [set(track.tasks_T.tolist()) for track in tracks] == [{0}, {1}]
    assert [len(track.returns) for track in tracks] == [2, 2]


def test_a_lone_multi_task_environment_is_played_task_by_task():
    tasks = [("Shown-v0", {"size": 8}), ("Shown-v0", {"size": 16})]
    model = shown.agent()
    env = MultiTaskEnv(tasks, render_mode="rgb_array")
    replay = sb3_moe.watch(model, env, episodes=3)
    tracks = replay.runs[0].tracks
    assert [set(track.tasks_T.tolist()) for track in tracks] == [{0}, {1}]
    assert [np.flatnonzero(track.starts_T).tolist() for track in tracks] == [[0, 7, 14]] * 2
    assert [len(track.returns) for track in tracks] == [3, 3]


def test_mean_actions_are_in_the_units_of_the_environment():
    model = SAC("MoeMlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [4]}, device="cpu")
    [track] = sb3_moe.watch(model, max_steps=5, frames=False).runs[0].tracks
    np.testing.assert_allclose(track.preferences[0], track.actions_TD, rtol=1e-5)


def test_an_expert_may_be_a_number_of_numpys(tmp_path):
    replay = sb3_moe.watch(shown.agent(), max_steps=2, without=[("pi", np.int64(1))])
    assert replay.runs[1].label == "without expert 1 of pi"
    replay.save(tmp_path / "page.html")


def test_some_tasks_can_be_chosen():
    model = shown.agent()
    second = model.get_env().get_attr("task_names")[0][1]
    assert [t.task for t in sb3_moe.watch(model, tasks=[second]).runs[0].tracks] == [second]
    assert [t.task for t in sb3_moe.watch(model, tasks=1).runs[0].tracks] == [second]
    assert [t.task for t in sb3_moe.watch(model, tasks=[1, 1]).runs[0].tracks] == [second]


def test_with_and_without_an_expert_begin_alike_and_only_its_gates_are_zero():
    replay = sb3_moe.watch(shown.agent(), without=["pi:2"], deterministic=False)
    whole, lacking = replay.runs
    assert lacking.label == "without expert 2 of pi"
    assert lacking.note == ("soft router: the others share its weight")
    assert lacking.off == {"pi.middle": [2]}
    for a, b in zip(whole.tracks, lacking.tracks, strict=True):
        assert (a.gates["pi.middle"][:, 2] > 0).all()
        assert (b.gates["pi.middle"][:, 2] == 0).all()
        np.testing.assert_allclose(a.gates["vf.middle"][0], b.gates["vf.middle"][0])
        np.testing.assert_array_equal(a.frames[0], b.frames[0])


def test_the_same_seed_gives_the_same_replay_and_training_goes_on_as_without_it():
    watched = shown.agent()
    first = sb3_moe.watch(watched, deterministic=False).runs[0].tracks[0]
    second = sb3_moe.watch(watched, deterministic=False).runs[0].tracks[0]
    np.testing.assert_array_equal(first.actions_TD, second.actions_TD)
    other = shown.agent().learn(64)
    watched = shown.agent()
    sb3_moe.watch(watched, deterministic=False)
    watched.learn(64)
    arena.assert_same_weights(watched.policy, other.policy)


def test_the_models_own_plain_environment_is_made_anew():
    model = PPO("MlpPolicy", "CartPole-v1", seed=0)
    before = model.get_env().reset()
    replay = sb3_moe.watch(model, max_steps=5, frames=False)
    assert replay.mixtures == []
    assert replay.no_frames == "no pictures were asked for"
    assert len(replay.runs[0].tracks[0]) == 5
    np.testing.assert_allclose(model.get_env().envs[0].unwrapped.state, before[0], rtol=1e-6)


class Unseen(arena.Arena):
    """Takes no render mode, and can't draw."""

    def __init__(self):
        super().__init__(arena.FLAT, arena.DISCRETE)


def test_tasks_that_cant_draw_are_played_and_say_why_there_are_no_pictures():
    model = PPO("MultiInputPolicy", make_multitask_vec_env([Unseen], 1, seed=0), seed=0)
    with pytest.warns(UserWarning, match="task 'Unseen' gives no images"):
        replay = sb3_moe.watch(model)
    assert replay.no_frames == "drawing raised NotImplementedError"
    assert len(replay.runs[0].tracks[0]) == 6


def test_a_registered_class_that_takes_no_render_mode_is_played_too():
    gym.register("Unseen-v0", Unseen)
    try:
        with pytest.warns(UserWarning, match="not in the possible render_modes"):
            replay = sb3_moe.watch(PPO("MlpPolicy", "Unseen-v0", seed=0))
    finally:
        del gym.registry["Unseen-v0"]
    assert "render_mode" in replay.no_frames
    assert len(replay.runs[0].tracks[0]) == 6


def draws(pictures):
    """Return an environment that draws these, the last of them for ever, or raises one of them."""

    class Drawing(shown.Shown):
        def render(self):
            found = pictures[min(self.count, len(pictures) - 1)]
            if isinstance(found, Exception):
                raise found
            return found

    return Drawing(render_mode="rgb_array")


PICTURE = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("pictures", "why", "drawn"),
    [
        ([NotImplementedError()], "drawing raised NotImplementedError", 0),
        ([PICTURE, PICTURE, OSError("no screen")], "no screen", 2),
        (["# text #"], r"`render()` must give an array of numbers (height, width), or", 0),
        ([[PICTURE, PICTURE]], "channels behind, got list (2, 4, 4, 3)", 0),
        ([np.zeros((0, 4, 3))], "channels behind, got ndarray (0, 4, 3)", 0),
    ],
)
def test_what_cant_be_drawn_at_some_step_is_played_on_without_pictures(pictures, why, drawn):
    replay = sb3_moe.watch(shown.agent(shown.Shown(), "MoeMlpPolicy"), draws(pictures))
    [track] = replay.runs[0].tracks
    assert why in replay.no_frames
    assert len(track) == shown.LENGTH
    assert (track.frame_T >= 0).sum() == drawn
    assert json.dumps(why)[1:-1] in replay.to_html()


def test_each_run_has_pictures_as_far_as_they_can_be_drawn():
    env = draws([PICTURE, PICTURE, OSError("no screen")])
    replay = sb3_moe.watch(shown.agent(shown.Shown(), "MoeMlpPolicy"), env, without=["pi:0"])
    drawn = [(run.tracks[0].frame_T >= 0).tolist() for run in replay.runs]
    assert drawn == [[True, True, *[False] * (shown.LENGTH - 2)]] * 2
    assert replay.no_frames == "no screen"


class WordlessError(OSError):
    def __str__(self):
        raise TypeError("no words")


@pytest.mark.parametrize(
    ("error", "why"),
    [(WordlessError(), "drawing raised WordlessError"), (OSError("no\n  screen"), "no screen")],
)
def test_why_nothing_is_drawn_is_one_line_whatever_was_raised(error, why):
    replay = sb3_moe.watch(shown.agent(shown.Shown(), "MoeMlpPolicy"), draws([error]))
    assert replay.no_frames == why


def test_a_process_that_ends_while_it_draws_is_named():
    env = SubprocVecEnv([partial(draws, [OSError("no screen")])] * 2, start_method="spawn")
    with pytest.raises(RuntimeError, match=r"`env` can't be played on, .* pass frames=False"):
        sb3_moe.watch(shown.agent(shown.Shown(), "MoeMlpPolicy"), env)


@pytest.mark.parametrize("error", [ConnectionResetError("it closed"), EOFError("it closed")])
def test_a_connection_of_the_environments_own_is_no_process_that_ended(error):
    replay = sb3_moe.watch(shown.agent(shown.Shown(), "MoeMlpPolicy"), draws([PICTURE, error]))
    assert replay.no_frames == "it closed"
    assert len(replay.runs[0].tracks[0]) == shown.LENGTH


class ObservedAsDrawn(shown.Shown):
    """Is observed as it is drawn."""

    def __init__(self, render_mode):
        super().__init__(render_mode=render_mode)

    def _observe(self):
        return np.full(3, 0.0 if self.render_mode is None else 1.0, np.float32)


def test_what_is_observed_as_it_is_drawn_is_so_without_pictures_too():
    gym.register("Seen-v0", ObservedAsDrawn)
    try:
        model = PPO("MlpPolicy", gym.make("Seen-v0", render_mode="rgb_array"), seed=0)
        with_pictures, without = (sb3_moe.watch(model, frames=each) for each in (True, False))
    finally:
        del gym.registry["Seen-v0"]
    values = [each.runs[0].tracks[0].values_TV for each in (with_pictures, without)]
    np.testing.assert_array_equal(*values)
    assert values[0].std() == 0


class OfTwoSizes(shown.Shown):
    """Is observed as a picture, whose size is another where it is to be drawn."""

    metadata = {"render_modes": ["rgb_array", "small"], "render_fps": 5}  # noqa: RUF012

    def __init__(self, render_mode=None):
        super().__init__(render_mode=render_mode)
        size = 36 if render_mode == "small" else 40
        self.observation_space = gym.spaces.Box(0, 255, (size, size, 3), np.uint8)

    def _observe(self):
        return self.observation_space.sample()


def test_an_agent_is_shown_what_it_learned_from_rather_than_drawn():
    gym.register("TwoSizes-v0", OfTwoSizes)
    try:
        model = PPO("CnnPolicy", gym.make("TwoSizes-v0", render_mode="small"), seed=0)
        replay = sb3_moe.watch(model)
    finally:
        del gym.registry["TwoSizes-v0"]
    assert "would observe something else" in replay.no_frames
    assert len(replay.runs[0].tracks[0]) == shown.LENGTH


@pytest.mark.parametrize("frames", [True, False])
def test_films_of_the_training_stay_as_they_are(tmp_path, frames):
    films = tmp_path / "films"
    drawn = gym.make("Shown-v0", render_mode="rgb_array", size=16)
    env = RecordVideo(drawn, films, lambda episode: episode == 0, name_prefix="mine")
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=16, seed=0).learn(16)
    before = {each: each.read_bytes() for each in films.iterdir()}
    replay = sb3_moe.watch(model, frames=frames)
    assert before == {each: each.read_bytes() for each in films.iterdir()}
    assert len(before) == 1
    assert bool(replay.no_frames) != frames


@pytest.mark.filterwarnings("ignore:.*doesn't natively support it")
@pytest.mark.parametrize("mode", ["human", "rgb_array_list"])
def test_modes_that_gymnasium_adds_are_left_to_the_training(mode, monkeypatch):
    opened = []
    monkeypatch.setattr(HumanRendering, "_render_frame", opened.append)
    model = PPO("MlpPolicy", gym.make("Shown-v0", render_mode=mode), seed=0)
    assert sb3_moe.watch(model).no_frames is None
    assert not opened


class Masked(shown.Shown):
    """Has pictures behind its first step, and knows of action 1 of fifty alone."""

    def __init__(self, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.action_space = gym.spaces.Discrete(50)

    def action_masks(self):
        return np.arange(50) == 1

    def step(self, action):
        assert action == 1
        return super().step(action)

    def render(self):
        return PICTURE if self.count else None


def test_what_forbids_actions_is_drawn_by_allowed_ones():
    gym.register("Masked-v0", Masked)
    try:
        model = MaskablePPO("MlpPolicy", gym.make("Masked-v0"), seed=0)
        replay = sb3_moe.watch(model)
    finally:
        del gym.registry["Masked-v0"]
    assert replay.no_frames is None


def test_what_neither_draws_nor_closes_is_played(monkeypatch):
    def fails(env):
        raise OSError("no screen")

    gym.register("Stuck-v0", shown.Shown)
    monkeypatch.setattr(shown.Shown, "render", fails)
    try:
        model = PPO("MlpPolicy", gym.make("Stuck-v0"), seed=0)
        closed = iter([fails])
        monkeypatch.setattr(shown.Shown, "close", lambda env: next(closed, lambda env: None)(env))
        replay = sb3_moe.watch(model)
    finally:
        del gym.registry["Stuck-v0"]
    assert (replay.no_frames, len(replay.runs[0].tracks[0])) == ("no screen", shown.LENGTH)


def test_what_draws_nothing_before_its_first_step_has_pictures_from_there_on():
    gym.register("Late-v0", lambda render_mode=None: draws([None, PICTURE]))
    try:
        replay = sb3_moe.watch(PPO("MlpPolicy", gym.make("Late-v0"), seed=0))
    finally:
        del gym.registry["Late-v0"]
    assert replay.no_frames is None
    assert replay.runs[0].tracks[0].frame_T.tolist() == [-1, *[0] * (shown.LENGTH - 1)]


@pytest.mark.parametrize("is_a_world", [False, True])
def test_no_second_window_opens_beside_the_models_own(is_a_world):
    windows = []

    class Window(shown.Shown):
        def __init__(self, render_mode=None):
            windows.append(render_mode)
            super().__init__(render_mode="rgb_array" if render_mode is None else render_mode)

    gym.register("Window-v0", Window)
    try:
        Window.metadata = {"render_modes": ["human", "rgb_array"]}
        if is_a_world:
            env = make_multitask_vec_env(["Window-v0"], render_mode="human")
            model = shown.agent(env)
        else:
            model = PPO("MlpPolicy", gym.make("Window-v0", render_mode="human"), seed=0)
        sb3_moe.watch(model, frames=False)
    finally:
        del gym.registry["Window-v0"]
    assert windows == ["human", None]


@pytest.mark.parametrize("given", ["the model's own", "what is within it", "what it was made with"])
def test_training_goes_on_from_where_it_was_after_its_own_environment_was_given(given):
    def trained():
        env = gym.make("Shown-v0")
        return env, shown.agent(env, "MoeMlpPolicy").learn(32)  # in the middle of an episode

    env, watched = trained()
    own = watched.get_env()
    played = {"the model's own": own, "what is within it": own.unwrapped}.get(given, env)
    count = env.unwrapped.count
    [track] = sb3_moe.watch(watched, played).runs[0].tracks
    assert len(track) == 7
    assert track.frames  # of one that was built with pictures
    assert env.unwrapped.count == count == 32 % 7
    watched.learn(32, reset_num_timesteps=False)
    _, other = trained()
    other.learn(32, reset_num_timesteps=False)
    arena.assert_same_weights(watched.policy, other.policy)


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_models_own_environment_is_refused_where_it_cant_be_made_again(wrapped):
    env = shown.Shown()
    model = shown.agent(env, "MoeMlpPolicy")
    rule = r"`env` must be given, and another than the model's own, .*: it doesn't say how another"
    for play in (sb3_moe.watch, lambda *both: expert_importance(*both, episodes=2)):
        with pytest.raises(ValueError, match=rule):
            play(model, model.get_env() if wrapped else env)
    assert env.count == 0
    assert len(sb3_moe.watch(model, shown.Shown()).runs[0].tracks[0]) == 7


def test_a_normaliser_is_taken_along():
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Shown-v0")]))
    model = shown.agent(env, "MoeMlpPolicy").learn(32)
    count = env.obs_rms.count
    [track] = sb3_moe.watch(model).runs[0].tracks
    assert env.obs_rms.count == count
    # Rewards are the environment's own.
    np.testing.assert_allclose(
        track.rewards_T, 0.1 * track.actions_TD[:, 0] * np.arange(1, 8), rtol=1e-5
    )


def normalised_agent():
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Shown-v0")]))
    return shown.agent(env, "MoeMlpPolicy").learn(64), env


def test_another_normalised_environment_takes_the_statistics_and_is_left_as_it_was():
    model, env = normalised_agent()
    other = VecNormalize(DummyVecEnv([lambda: gym.make("Shown-v0")]), gamma=0.5)
    before = other.obs_rms
    seen = []
    other.normalize_obs = lambda obs: seen.append(other.obs_rms.mean) or obs
    sb3_moe.watch(model, other)
    np.testing.assert_array_equal(seen[0], env.obs_rms.mean)
    assert other.obs_rms is before
    assert before.count < 1
    assert (other.training, other.norm_reward) == (True, True)


def test_the_training_environment_learns_nothing_from_being_watched():
    model, env = normalised_agent()
    count = env.obs_rms.count
    sb3_moe.watch(model, env)
    assert env.obs_rms.count == count
    assert env.training


def test_an_environment_that_shows_other_numbers_than_training_did_is_refused():
    model, env = normalised_agent()
    with pytest.raises(ValueError, match="`env` must be in a VecNormalize, as the model's own env"):
        sb3_moe.watch(model, "Shown-v0")
    plain = shown.agent(DummyVecEnv([lambda: gym.make("Shown-v0")]), "MoeMlpPolicy")
    with pytest.raises(ValueError, match="`env` must not be in a VecNormalize that normalises obs"):
        sb3_moe.watch(plain, env)
    sb3_moe.watch(plain, VecNormalize(DummyVecEnv([lambda: gym.make("Shown-v0")]), norm_obs=False))


def test_an_environment_that_normalises_otherwise_is_refused():
    tasks = [lambda: gym.make("Shown-v0")] * 2
    env = PerTaskVecNormalize(sb3_moe.make_multitask_vec_env(tasks, 2, seed=0))
    model = shown.agent(env, "MoeMultiInputPolicy")
    other = sb3_moe.make_multitask_vec_env(tasks, 2, seed=0)
    text = (
        r"normalised as the model's own environment, PerTaskVecNormalize of \['obs'\], got VecNorm"
    )
    with pytest.raises(ValueError, match=text):
        sb3_moe.watch(model, VecNormalize(other, norm_obs_keys=["obs"]))


@pytest.mark.parametrize(
    ("make", "policy", "kind"),
    [(DQN, "MlpPolicy", "value"), (SAC, "MlpPolicy", "mean"), (PPO, "MlpPolicy", "probability")],
)
def test_dense_policies_of_sb3_are_watched_too(make, policy, kind):
    env = arena.Arena(arena.FLAT, arena.BOX if make is SAC else arena.DISCRETE)
    sizes = {} if make is PPO else {"buffer_size": 100}
    other = arena.Arena(arena.FLAT, env.action_space)
    replay = sb3_moe.watch(make(policy, env, seed=0, **sizes), other)
    assert replay.kind == kind
    assert replay.no_frames == "the environment was built without render_mode='rgb_array'"
    [track] = replay.runs[0].tracks
    assert track.frame_T.tolist() == [-1] * 6
    assert [each.layer for each in track.sleep][:2] == (
        ["pi.0", "pi.1"] if make is not DQN else ["qf.0", "qf.1"]
    )


def test_dormant_units_are_measured_on_what_the_agent_saw():
    model = shown.agent()
    with th.no_grad():
        layer = model.policy.moe_layers()["pi.middle"]
        for name, parameter in layer.experts.named_parameters():
            if "0" in name:
                parameter[1] = 0  # expert 1's hidden layer is silent
    [track, _] = sb3_moe.watch(model).runs[0].tracks
    sleep = {each.layer: each for each in track.sleep}
    assert sleep["pi.0"].per_expert[1] == 1
    assert sleep["pi.0"].share >= 1 / 3


def test_episodes_are_cut_at_the_most_steps():
    [track, _] = sb3_moe.watch(shown.agent(), max_steps=4).runs[0].tracks
    assert len(track) == 4
    assert track.returns == []


def test_the_strongest_moments_are_the_largest_gates_and_no_neighbours():
    [track, _] = sb3_moe.watch(shown.agent(), episodes=3).runs[0].tracks
    gates_T = track.gates["pi.middle"][:, 0]
    steps = track.strongest("pi.middle", 0)
    assert steps[0] == gates_T.argmax()
    assert len(steps) == 4
    assert min(abs(a - b) for a in steps for b in steps if a != b) > 1
    gates_T[:] = -gates_T  # an embedding's weights may be
    assert track.strongest("pi.middle", 0) == steps
    assert (
        track.leading("pi.middle").tolist() == np.abs(track.gates["pi.middle"]).argmax(1).tolist()
    )
    gates_T[:] = 0
    assert track.strongest("pi.middle", 0) == []


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"episodes": 0}, "`episodes` must be at least 1, got 0"),
        ({"max_steps": 0}, "`max_steps` must be at least 1, got 0"),
        ({"tasks": ["none"]}, r"`tasks` must be among \['.*'\], got 'none'"),
        ({"tasks": []}, r"`tasks` must name at least one of \['.*'\], got none"),
        ({"without": ["pi:²"]}, "`without` must name experts as 'pi:2', got 'pi:²'"),
        ({"tasks": 2}, r"`tasks` must be among \['.*'\], got 2"),
        ({"tasks": [2]}, r"`tasks` must be among \['.*'\], got 2"),
        ({"without": [1]}, "`without` must name experts as 'pi:2', got 1"),
        ({"without": ["pi"]}, "`without` must name experts as 'pi:2', got 'pi'"),
        ({"without": ["pi:x"]}, "`without` must name experts as 'pi:2', got 'pi:x'"),
        ({"without": [("pi", 7)]}, r"`expert` must be in \[0, num_experts=3\) of pi.middle, got 7"),
    ],
)
def test_a_wrong_argument_is_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        sb3_moe.watch(shown.agent(), **kwargs)


@pytest.mark.parametrize("name", ["episodes", "max_steps"])
@pytest.mark.parametrize("number", [1.5, float("nan"), True, "2"], ids=str)
def test_what_is_no_whole_number_is_named(name, number):
    with pytest.raises(TypeError, match=f"`{name}` must be an int, got {number!r}"):
        sb3_moe.watch(shown.agent(), **{name: number})


@pytest.mark.parametrize("wanted", [np.int64(1), 1, "name"], ids=str)
def test_one_task_may_be_named_as_numpy_or_a_text_does(wanted):
    model = shown.agent()
    names = model.get_env().get_attr("task_names")[0]
    tasks = names[1] if wanted == "name" else [wanted]
    [track] = sb3_moe.watch(model, max_steps=2, tasks=tasks).runs[0].tracks
    assert track.task == names[1]


def test_an_environment_that_cant_be_made_again_must_be_given():
    model = arena.make("PPO")
    rule = "`env` must be given, and another than the model's own, which is training's: it doesn't"
    with pytest.raises(ValueError, match=rule):
        sb3_moe.watch(model)
    model.env = None
    with pytest.raises(ValueError, match="`env` must be given, since the model has no environment"):
        sb3_moe.watch(model)


class Unsaid(gym.Wrapper):
    """A wrapper that doesn't say how it was built."""


def test_a_wrapper_that_cant_be_built_again_is_named():
    model = shown.agent(DummyVecEnv([lambda: Unsaid(gym.make("Shown-v0"))]), "MoeMlpPolicy")
    with pytest.raises(ValueError, match=r"`env` must be given, .*: Unsaid around it doesn't"):
        sb3_moe.watch(model)


class Around(VecEnvWrapper):
    """A wrapper of a kind that nobody knows how to copy."""

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        return self.venv.step_wait()


def test_a_wrapper_around_a_vector_of_environments_that_cant_be_copied_is_named():
    model = shown.agent(Around(DummyVecEnv([lambda: gym.make("Shown-v0")])), "MoeMlpPolicy")
    for env in (None, model.get_env()):
        with pytest.raises(ValueError, match=r"`env` must be .*: Around around it can't be copied"):
            sb3_moe.watch(model, env)


def test_a_page_makes_its_folder(tmp_path):
    model = shown.agent(DummyVecEnv([lambda: gym.make("Shown-v0")]), "MoeMlpPolicy")
    replay = sb3_moe.watch(model, max_steps=2)
    assert replay.save(tmp_path / "new" / "page.html").exists()
    with pytest.raises(ValueError, match=r"`path` must be .*'x\.GIF': `to_video` writes films"):
        replay.save(tmp_path / "x.GIF")


def test_an_environment_that_plays_other_tasks_than_it_is_told_is_refused():
    from toy import Toy

    model = PPO("MoeMultiInputPolicy", Toy((0,)), n_steps=16, batch_size=16)
    with pytest.raises(ValueError, match=re.escape("but didn't play ['b']")):
        sb3_moe.watch(model, Toy((0,)))


def test_what_is_no_model_yet_cannot_be_watched():
    with pytest.raises(
        TypeError, match=r"`model` must be an SB3 model, got 'x.moe': open a file by"
    ):
        sb3_moe.watch("x.moe")


def test_one_expert_may_be_named_without_a_list():
    model = shown.agent()
    runs = [sb3_moe.watch(model, max_steps=3, without=w).runs[1] for w in ("pi:1", ["pi:1"])]
    assert runs[0].off == runs[1].off == {"pi.middle": [1]}


def test_an_environment_may_be_named_as_sb3_takes_it():
    model = shown.agent("Shown-v0", "MoeMlpPolicy")
    [run] = sb3_moe.watch(model, "Shown-v0", max_steps=3).runs
    assert len(run.tracks[0]) == 3


def test_a_replay_is_called_by_its_tasks_and_steps():
    replay = sb3_moe.watch(shown.agent(), max_steps=5)
    assert len(replay.task_names) == 2
    assert repr(replay) == f"Replay({replay.title!r}, tasks={replay.task_names}, steps=10)"


def test_an_expert_may_be_named_by_its_mixture():
    assert expert_named("pi.all.1:3") == ("pi.all.1", 3)


def test_the_table_of_an_agent_that_only_values_is_of_what_it_values():
    model = arena.make("DQN", num_experts=2, net_arch=[4])
    found = expert_importance(model, arena.default_env("DQN", "MoeMlpPolicy"), episodes=2)
    assert found.tower == "qf"


def test_the_table_is_of_one_mixture_where_those_of_a_tower_differ_in_size():
    model = shown.agent(head_router="task")  # three experts, and a head for each of two tasks
    first, head = model.policy.mixtures("pi")
    found = expert_importance(model, episodes=2)
    assert found.tower == first
    assert found.rows[-1] == "without 2"
    assert expert_importance(model, tower=head, episodes=2).rows[-1] == "without 1"
    rule = rf"`tower` must name one mixture .*'{first}': 3, '{head}': 2.*, got 'pi'"
    with pytest.raises(ValueError, match=rule):
        expert_importance(model, tower="pi", episodes=2)


def test_the_table_has_a_row_for_each_expert_and_intervals_over_episodes():
    model = shown.agent()
    found = expert_importance(model, episodes=3, deterministic=False)
    assert found.returns.shape == (4, 2, 3)
    assert found.rows == ["all experts", "without 0", "without 1", "without 2"]
    whole = found.estimate(0, 1)
    assert whole.value == pytest.approx(found.returns[0, 1].mean())
    assert whole.low <= whole.value <= whole.high
    # Their returns lie between 1 and 10.
    assert found.cells()[0][1] == f"{whole.value:.2f} [{whole.low:.2f}, {whole.high:.2f}]"
    again = expert_importance(model, episodes=3, deterministic=False)
    np.testing.assert_array_equal(found.returns, again.returns)
    assert found.to_markdown().count("\n") == 5
    with pytest.raises(ValueError, match="`episodes` must be at least 2 for an interval, got 1"):
        expert_importance(model, episodes=1)
