"""Models of other papers' methods that grow, or become dense, and what is refused of them."""

import arena
import numpy as np
import pytest

import sb3_moe
from sb3_moe import presets


def make(**options):
    env = arena.Arena(arena.with_task(arena.FLAT))
    return arena.make("PPO", "MoeMultiInputPolicy", env, **{"net_arch": [8, 8], **options})


def dense(**options):
    return make(placement="none", **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"combine": "orthogonal"}, "`combine` must be 'sum': a dense"),
        ({"expert": "simba"}, "`expert` must have as many linear layers"),
        ({"router": "embedding"}, "'embedding' with linear weights can't"),
    ],
)
def test_upcycling_says_what_it_cannot_keep(options, text):
    with pytest.raises(ValueError, match=text):
        sb3_moe.upcycle(dense(), **options)


@pytest.mark.parametrize("grow", [sb3_moe.upcycle, sb3_moe.to_dense])
def test_blocks_that_sb3_has_not_are_refused(grow):
    with pytest.raises(ValueError, match="`block` must be 'mlp': SB3's dense models"):
        grow(dense(block="simba"))


@pytest.mark.parametrize(
    ("options", "task", "text"),
    [
        (presets.MOORE, 1, "`model` must have mixtures that are one network"),
        ({"expert": "simba", "num_experts": 1}, None, "`model` must have layers as SB3 has"),
    ],
)
def test_becoming_dense_says_what_it_cannot_keep(options, task, text):
    with pytest.raises(ValueError, match=text):
        sb3_moe.to_dense(make(**options), task=task)


def test_a_network_of_pacos_parameters_is_dense_for_a_task():
    model = make(**presets.PACO)
    alone = sb3_moe.to_dense(model, task=1)
    obs = {"obs": np.full((1, 5), 0.3, np.float32), "task_id": np.array([1])}
    seen = model.policy.obs_to_tensor(obs)[0]
    ours, theirs = (each.policy.get_distribution(seen).distribution for each in (alone, model))
    np.testing.assert_allclose(ours.probs.detach(), theirs.probs.detach(), rtol=1e-4)


def test_a_dense_model_goes_on_with_experts_weighed_by_the_task():
    grown = sb3_moe.upcycle(
        dense(), router="embedding", router_kwargs={"weights": "softmax"}, num_experts=2
    )
    arena.train(grown)
