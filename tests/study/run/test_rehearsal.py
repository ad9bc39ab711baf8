"""A network that can't be built is found out before any cell starts."""

from dataclasses import replace

import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor

from sb3_moe.study.run.learner import build
from sb3_moe.study.run.rehearsal import check_networks
from sb3_moe.study.spec.architectures import named_architecture
from sb3_moe.study.spec.config import Architecture
from sb3_moe.study.spec.grid import StudyConfig
from sb3_moe.study.spec.named import Named

VALUES = {
    "name": "two",
    "games": ("CartPole-v1", "Acrobot-v1"),
    "regimes": ("mtrl",),
    "n_envs": 2,
    "steps_per_task": 64,
    "ppo": {"n_steps": 1, "batch_size": 2},
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
        (Architecture(name="odd", ppo={"batch_size": 1}), "AssertionError: .*batch_size"),
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
