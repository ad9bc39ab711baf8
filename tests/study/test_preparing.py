"""What a study finds out before it trains: levels of a random policy, mistakes, and speeds."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from made_up_study import study
from pydantic import TypeAdapter
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor
from tiny import Steps

from sb3_moe.saving.files import read_json
from sb3_moe.study.building import Named, NamedEntry, arguments_of
from sb3_moe.study.config import Architecture, Evaluation, StudyConfig, named_architecture
from sb3_moe.study.preparing import check_networks, measure_random_policy, rehearsed_rate
from sb3_moe.study.results import random_means, random_of

VALUES = {
    "name": "two",
    "games": ("CartPole-v1", "Acrobot-v1"),
    "regimes": ("mtrl",),
    "n_envs": 2,
    "steps_per_task": 64,
    "arguments": {"n_steps": 1, "batch_size": 2},
}


def check(folder, *architectures, **changes):
    check_networks(StudyConfig(**{**VALUES, **changes}, architectures=architectures).runs())


class Looks(BaseCallback):
    """Looks at what there is only where it trains."""

    def _init_callback(self):
        raise FileExistsError("a run's files lie there")

    def _on_step(self):
        return True


@pytest.mark.parametrize(
    ("callback", "cause"),
    [
        ("RoutingCallback", "`model` must have experts, as in PPO"),
        ({"FreezeRouterCallback": {"every": 64}}, "`model` must have a router that learns"),
        ("TaskTemperatureCallback", "`model` must have a policy with `ent_coef_per_task`"),
        ({"TaskSwitchCallback": {"replay_buffer": "clear"}}, "`replay_buffer` must be 'keep'"),
        ({"TaskSwitchCallback": {"on_new_task": "add_expert"}}, "`on_new_task` can't be"),
        ({"ReDoCallback": {}}, "missing .* 'every'"),
        ("ReDo", "`callbacks` must be a BaseCallback by its name or"),
    ],
)
def test_a_callback_that_cant_be_built_or_take_the_model_is_named_with_its_network(
    callback, cause, tmp_path
):
    each = TypeAdapter(NamedEntry).validate_python(callback)
    dense = replace(named_architecture("dense"), callbacks=(each,))
    with pytest.raises(ValueError, match=f"architecture 'dense' can't be built: .*{cause}"):
        check(tmp_path, named_architecture("soft-big"), dense)


def test_networks_that_can_be_built_pass_and_callbacks_begin_nothing(tmp_path):
    own = (Named(name=f"{__name__}:Looks"),)
    soft, task = named_architecture("soft-big"), named_architecture("task-middle")
    check(tmp_path, replace(named_architecture("dense"), callbacks=own), soft, task)
    check(tmp_path, soft, algorithm="DQN", arguments={})


def test_sb3s_dense_policies_are_the_one_for_several_inputs(tmp_path):
    network = Architecture(name="own", policy="MlpPolicy")
    (run,) = StudyConfig(**VALUES, architectures=(network,)).runs()
    assert arguments_of(run)["policy_kwargs"]["features_extractor_class"] is CombinedExtractor
    check_networks([run])


class Blind(ActorCriticPolicy):
    def forward(self, obs, deterministic=False):
        raise RuntimeError("I see nothing")


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"policy": f"{__name__}:Blind"}, "I see nothing"),
        ({"policy": "json:dumps"}, ""),
        ({"arguments": {"batch_size": 1}}, "AssertionError: .*batch_size"),
        ({"policy_kwargs": {"placement": "middle", "net_arch": []}}, "middle"),
    ],
)
def test_a_network_that_cannot_be_built_is_named_with_the_cause(values, cause, tmp_path):
    odd = Architecture(name="odd", **values)
    with pytest.raises(ValueError, match=rf"architecture 'odd'.*: .*{cause}"):
        check(tmp_path, named_architecture("dense"), odd)


def test_what_the_environment_cannot_be_is_named(tmp_path):
    dense = named_architecture("dense")
    wrong = Named(name="VecNormalize", arguments={"norm_obs_keys": ["nope"]})
    with pytest.raises(ValueError, match=r"^`normalize`: VecNormalize.*KeyError: 'nope'"):
        check(tmp_path, dense, normalize=wrong)
    with pytest.raises(ValueError, match=r"`normalize`: got an unexpected .* 'clip'; .*clip_obs"):
        check(tmp_path, dense, normalize=Named(name="VecNormalize", arguments={"clip": 5.0}))
    pendulum = {"games": (), "tasks": ("Pendulum-v1",), "arguments": {}}
    with pytest.raises(ValueError, match=r"^architecture 'dense' can't be built: .*Discrete"):
        check(tmp_path, dense, algorithm="DQN", **pendulum)
    with pytest.raises(TypeError, match=r"task_idd"):
        check(tmp_path, dense, env={"task_idd": "dict"})


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN"])
def test_a_rehearsal_says_how_fast_a_network_trains_with_its_evaluations(algorithm):
    arguments = {"DQN": {"batch_size": 4}, "A2C": {"n_steps": 4}}
    own = arguments.get(algorithm, VALUES["arguments"])
    values = {**VALUES, "arguments": own, "steps_per_task": 640}
    (run,) = StudyConfig(**values, algorithm=algorithm, architectures=("dense",)).runs()
    rate = rehearsed_rate(run, 0.2)
    assert 0 < rate < 1e6
    often = replace(run, evaluation=Evaluation(points=100, episodes=2000))
    assert rehearsed_rate(often, 0.2) < rate
    assert rehearsed_rate(replace(run, steps_per_task=8), 0.2) > 0  # a few updates in all


class Lives(Steps):
    """Three lives of two steps, worth 10 points each; training is paid 1 for each."""

    steps = 0

    def reset(self, *, seed=None, options=None):
        return self.observe(), {}

    def step(self, action):
        obs, reward, *_ = super().step(action)
        over = self.steps % 6 == 0
        score = 60.0 if over else 10.0 * (self.steps % 6)
        info = {"score": score, "game_over": over, "of_atari": True}
        return obs, reward, self.steps % 2 == 0, False, info


class Forbidding(Steps):
    """Ends the episode, and is lost, at an action that it forbids."""

    action_space = spaces.Discrete(3)
    mask = np.array([True, False, False])
    length = 4

    def action_masks(self):
        return self.mask

    def step(self, action):
        obs, *others = super().step(action)
        return (obs, *others) if self.mask[action] else (obs, -100.0, True, False, {})


def random_returns(folder, *tasks, **changes):
    """Play a study's tasks at random, and give the returns of each."""
    values = {**VALUES, "games": (), "tasks": tasks, "random_episodes": 20, **changes}
    the_study = StudyConfig(**values, architectures=("dense",))
    measure_random_policy(the_study, folder)
    assert random_means(the_study, folder)
    return read_json(folder / "random.json")["returns"]


def test_whole_games_count_with_their_score_and_each_run_is_the_same(tmp_path):
    found = random_returns(tmp_path, f"{__name__}:Lives", "CartPole-v1")
    assert found["Lives"] == [60.0] * 20
    assert len({*found["CartPole"]}) > 3
    (tmp_path / "random.json").unlink()
    assert random_returns(tmp_path, f"{__name__}:Lives", "CartPole-v1") == found


def test_the_random_policy_is_measured_unless_it_has_been(tmp_path):
    path, task = tmp_path / "random.json", f"{__name__}:Lives"
    random_returns(tmp_path, task)
    path.write_text(path.read_text().replace("60.0", "61.0"))
    assert random_returns(tmp_path, task)["Lives"] == [61.0] * 20
    assert random_returns(tmp_path, task, random_episodes=21)["Lives"] == [60.0] * 21
    path.write_text(path.read_text()[:-9])  # damaged
    assert random_returns(tmp_path, task)["Lives"] == [60.0] * 20
    assert random_of(study(no_op_max=30)) != random_of(study())


@pytest.mark.parametrize(("algorithm", "is_lost"), [("PPO", True), ("MaskablePPO", False)])
def test_what_is_forbidden_is_drawn_only_where_the_algorithm_would(algorithm, is_lost, tmp_path):
    pytest.importorskip("sb3_contrib")
    arguments = {"n_steps": 2, "batch_size": 2}
    task = f"{__name__}:Forbidding"
    found = random_returns(tmp_path, task, algorithm=algorithm, arguments=arguments)
    returns = found["Forbidding"]
    assert (min(returns) < 0) == is_lost
    assert is_lost or returns == [4.0] * 20
