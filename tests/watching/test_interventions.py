"""An expert that is off is an expert that isn't there."""

import pickle
from contextlib import ExitStack, suppress

import arena
import pytest
import torch as th
from stable_baselines3 import PPO

import sb3_moe

E = 4


@pytest.fixture(scope="module")
def model():
    """A model that learns nothing; tests leave it as it is."""
    return model_of()


def model_of(**kwargs):
    options = {"net_arch": [6], "num_experts": E, **kwargs}
    return PPO("MoeMlpPolicy", arena.Arena(arena.FLAT), seed=0, policy_kwargs=options, n_steps=64)


OBS = arena.FLAT.sample()


def gates(model, name):
    return model.policy.routing(OBS)[name].gates_BNE.flatten()


def test_an_expert_is_off_within_the_block_and_back_after_it(model):
    before, state = gates(model, "pi.middle"), pickle.dumps(model.policy.state_dict())
    with suppress(KeyError), sb3_moe.without_expert(model, "pi", 2):
        assert gates(model, "pi.middle")[2] == 0
        assert gates(model, "vf.middle")[2] > 0
        with sb3_moe.without_expert(model.policy, "pi", 0):
            assert (gates(model, "pi.middle") == 0).tolist() == [True, False, True, False]
        assert (gates(model, "pi.middle") == 0).tolist() == [False, False, True, False]
        raise KeyError("whatever happens within")
    th.testing.assert_close(gates(model, "pi.middle"), before, rtol=0, atol=0)
    assert pickle.dumps(model.policy.state_dict()) == state


def test_a_network_of_several_mixtures_is_changed_in_each_or_in_one():
    model = model_of(placement="all", net_arch=[6, 6])
    with sb3_moe.without_expert(model, "pi", 1):
        for name in ("all.0", "all.1", "head"):
            assert gates(model, f"pi.{name}")[1] == 0
    with sb3_moe.without_expert(model, "pi.head", 1):
        assert gates(model, "pi.all.0")[1] > 0
        assert gates(model, "pi.head")[1] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("q", 0), r"must be one of \['pi', 'vf'\], which have experts, got 'q'"),
        (("pi", 4), r"`expert` must be in \[0, num_experts=4\) of pi.middle, got 4"),
        (("pi", -1), "`expert` must be at least 0, got -1"),
    ],
)
def test_a_wrong_network_or_expert_is_named(model, arguments, message):
    with pytest.raises(ValueError, match=message), sb3_moe.without_expert(model, *arguments):
        pass


def test_the_last_expert_stays(model):
    with ExitStack() as off:
        for k in range(3):
            off.enter_context(sb3_moe.without_expert(model, "pi", k))
        assert gates(model, "pi.middle").tolist() == [0, 0, 0, 1]
        with pytest.raises(ValueError, match=r"one or more experts of pi\.middle must stay on"):
            off.enter_context(sb3_moe.without_expert(model, "pi", 3))
