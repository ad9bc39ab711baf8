"""A network that can't be built is found out before any cell starts."""

from dataclasses import replace

import pytest
from pydantic import TypeAdapter
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor

from sb3_moe.study.run.cell import build
from sb3_moe.study.run.rehearsal import check_networks, rehearsed_pace
from sb3_moe.study.spec.architectures import named_architecture
from sb3_moe.study.spec.config import Architecture, Evaluation
from sb3_moe.study.spec.grid import StudyConfig
from sb3_moe.study.spec.named import Named, NamedEntry

VALUES = {
    "name": "two",
    "games": ("CartPole-v1", "Acrobot-v1"),
    "regimes": ("mtrl",),
    "n_envs": 2,
    "steps_per_task": 64,
    "arguments": {"n_steps": 1, "batch_size": 2},
}


def cells(*architectures):
    return StudyConfig(**VALUES, architectures=architectures).cells()


class Looks(BaseCallback):
    """Looks at what there is only where it trains."""

    def _init_callback(self):
        raise FileExistsError("a run's files lie there")

    def _on_step(self):
        return True


def test_callbacks_are_built_and_begin_nothing():
    own = Named(name=f"{__name__}:Looks")
    check_networks(cells(replace(named_architecture("dense"), callbacks=(own,))))


@pytest.mark.parametrize(
    ("callback", "cause"),
    [
        ("RoutingCallback", "the policy has no mixture of experts"),
        ({"FreezeRouterCallback": {"every": 64}}, "the policy must have a router that learns"),
        ("TaskTemperatureCallback", "`model` must have a temperature for each task"),
        ({"TaskSwitchCallback": {"replay_buffer": "clear"}}, "`replay_buffer` must be 'keep'"),
        ({"TaskSwitchCallback": {"restart_exploration": True}}, "without an epsilon"),
        ({"TaskSwitchCallback": {"on_new_task": "add_expert"}}, "`on_new_task` can't be"),
    ],
)
def test_a_callback_that_cant_take_the_model_is_named_with_its_network(callback, cause):
    each = TypeAdapter(NamedEntry).validate_python(callback)
    dense = replace(named_architecture("dense"), callbacks=(each,))
    text = f"architecture 'dense' can't have {each.name}: .*{cause}.* its own for it alone"
    with pytest.raises(ValueError, match=text):
        check_networks(cells(named_architecture("soft-big"), dense))


def test_what_needs_an_on_policy_algorithm_is_refused_for_others():
    each = Named(name="TaskAdvantageCallback")
    dense = replace(named_architecture("dense"), callbacks=(each,))
    values = {name: value for name, value in VALUES.items() if name != "arguments"}
    study = StudyConfig(**values, algorithm="DQN", architectures=(dense,))
    with pytest.raises(ValueError, match="can't have TaskAdvantageCallback: advantages by task"):
        check_networks(study.cells())


class Particular(Looks):
    """Says by itself what it takes."""

    def check_model(self, model):
        raise ValueError("not this one")


def test_users_own_callbacks_may_say_what_they_take():
    own = Named(name=f"{__name__}:Particular")
    with pytest.raises(ValueError, match="'dense' can't have Particular: not this one"):
        check_networks(cells(replace(named_architecture("dense"), callbacks=(own,))))


class Asserting(Looks):
    def check_model(self, model):
        raise AssertionError("needs two of them")


class Flagged(Looks):
    """Has an option that is called like the question."""

    check_model = True


def test_whatever_a_users_own_callback_raises_is_said_with_its_name():
    own = Named(name=f"{__name__}:Asserting")
    text = "'dense' can't have Asserting: AssertionError: needs two of them"
    with pytest.raises(ValueError, match=text):
        check_networks(cells(replace(named_architecture("dense"), callbacks=(own,))))


def test_an_option_that_is_called_like_the_question_is_none():
    own = Named(name=f"{__name__}:Flagged")
    check_networks(cells(replace(named_architecture("dense"), callbacks=(own,))))


def test_networks_that_can_be_built_pass():
    check_networks(cells(*map(named_architecture, ("dense", "soft-big", "task-middle"))))


@pytest.mark.parametrize(
    "policy",
    ["MlpPolicy", "MultiInputPolicy", "stable_baselines3.common.policies:ActorCriticPolicy"],
)
def test_sb3s_dense_policies_are_the_one_for_several_inputs(policy):
    (cell,) = cells(Architecture(name="own", policy=policy))
    check_networks([cell])
    model, env = build(cell)
    assert isinstance(model.policy.features_extractor, CombinedExtractor)
    model.learn(4)
    env.close()


class Blind(ActorCriticPolicy):
    def forward(self, obs, deterministic=False):
        raise RuntimeError("I see nothing")


def test_a_network_that_can_be_built_but_gives_no_actions_is_named_with_the_cause():
    own = Architecture(name="odd", policy=f"{__name__}:Blind")
    with pytest.raises(ValueError, match=r"architecture 'odd' can't be built: .*I see nothing"):
        check_networks(cells(own))


@pytest.mark.parametrize(
    ("architecture", "cause"),
    [
        (Architecture(name="odd", policy_kwargs={"net_archs": [8]}), "TypeError: .*net_archs"),
        (Architecture(name="odd", arguments={"batch_size": 1}), "AssertionError: .*batch_size"),
        (Architecture(name="odd", policy_kwargs={"placement": "middle", "net_arch": []}), "middle"),
        (
            Architecture(name="odd", policy_kwargs={"placement": "none", "net_arch": []}),
            "`policy` must have a hidden layer .*, got none",
        ),
    ],
)
def test_a_network_that_cannot_be_built_is_named_with_the_cause(architecture, cause):
    with pytest.raises(ValueError, match=rf"architecture 'odd' can't be built: .*{cause}"):
        check_networks(cells(named_architecture("dense"), architecture))


@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_a_rehearsal_says_how_fast_a_network_trains_with_its_evaluations(algorithm):
    arguments = {"batch_size": 4} if algorithm == "DQN" else VALUES["arguments"]
    values = {**VALUES, "arguments": arguments, "steps_per_task": 640}
    study = StudyConfig(**values, algorithm=algorithm, architectures=("dense",))
    (cell,) = study.cells()
    pace = rehearsed_pace(cell, 0.2)
    assert 0 < pace.rate < 1e6
    assert pace.start > 0
    often = replace(cell, evaluation=Evaluation(points=100, episodes=200))
    assert rehearsed_pace(often, 0.2).rate < pace.rate
