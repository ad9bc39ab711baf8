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


GROWING = [
    (lambda: sb3_moe.upcycle(dense(), combine="orthogonal"), "`combine` must be 'sum': a dense"),
    (lambda: sb3_moe.upcycle(dense(), expert="simba"), "`expert` must have as many linear layers"),
    (lambda: sb3_moe.upcycle(dense(), router="embedding"), "'embedding' with linear weights can't"),
    (lambda: sb3_moe.upcycle(dense(block="simba")), "`block` must be 'mlp': SB3's dense models"),
    (
        lambda: sb3_moe.to_dense(dense(block="simba")),
        "`block` must be 'mlp': SB3's dense models",
    ),
    (
        lambda: sb3_moe.to_dense(make(**presets.MOORE), task=1),
        "`model` must have mixtures that are one network",
    ),
    (
        lambda: sb3_moe.to_dense(make(expert="simba", num_experts=1)),
        "`model` must have layers as SB3 has",
    ),
]


@pytest.mark.parametrize(("grow", "text"), GROWING, ids=[text[:40] for _, text in GROWING])
def test_growing_says_what_it_cannot_keep(grow, text):
    with pytest.raises(ValueError, match=text):
        grow()


def test_a_network_of_pacos_parameters_is_dense_for_a_task():
    model = make(**presets.PACO)
    alone = sb3_moe.to_dense(model, task=1)
    obs = {"obs": np.full((1, 5), 0.3, np.float32), "task_id": np.array([1])}
    np.testing.assert_allclose(
        alone.policy.get_distribution(
            alone.policy.obs_to_tensor(obs)[0]
        ).distribution.probs.detach(),
        model.policy.get_distribution(
            model.policy.obs_to_tensor(obs)[0]
        ).distribution.probs.detach(),
        rtol=1e-4,
    )


def test_a_dense_model_goes_on_with_experts_weighed_by_the_task():
    grown = sb3_moe.upcycle(
        dense(), router="embedding", router_kwargs={"weights": "softmax"}, num_experts=2
    )
    arena.train(grown)
