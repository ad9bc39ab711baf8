"""Models of other papers' methods that grow, or become dense, and what is refused of them."""

import arena
import numpy as np
import pytest

import sb3_moe
from sb3_moe import presets


def make(**options):
    env = arena.Arena(arena.with_task(arena.FLAT))
    return arena.make("PPO", "MoeMultiInputPolicy", env, **{"net_arch": [8, 8], **options})


DENSE, BLOCKS = {"placement": "none"}, {"placement": "none", "block": "simba"}
POPART = {**DENSE, "head_router": {"vf": "task"}, "popart": True}
ORTHOGONAL, SIMBA = {"combine": "orthogonal"}, {"expert": "simba"}


@pytest.mark.parametrize(
    ("grow", "model", "arguments", "text"),
    [
        (sb3_moe.upcycle, DENSE, ORTHOGONAL, "`combine` must be 'sum': a dense"),
        (sb3_moe.upcycle, DENSE, SIMBA, "`expert` must have as many linear layers"),
        (sb3_moe.upcycle, DENSE, {"router": "embedding"}, "'embedding' needs `router_kwargs`"),
        (sb3_moe.upcycle, DENSE, {"router": "belief"}, "`router` must be another: dense"),
        (sb3_moe.to_dense, POPART, {"task": 1}, "`popart` must be False: SB3's critics"),
        (sb3_moe.upcycle, BLOCKS, {}, "`block` must be 'mlp': SB3's dense models"),
        (sb3_moe.to_dense, BLOCKS, {}, "`block` must be 'mlp': SB3's dense models"),
        (sb3_moe.to_dense, presets.MOORE, {"task": 1}, "`model` can only become dense if each"),
        (sb3_moe.to_dense, {**SIMBA, "num_experts": 1}, {}, "`model` must have layers as SB3 has"),
    ],
)
def test_what_cannot_be_kept_is_said(grow, model, arguments, text):
    with pytest.raises(ValueError, match=text):
        grow(make(**model), **arguments)


def test_a_network_of_pacos_parameters_is_dense_for_a_task():
    model = make(**presets.PACO)
    alone = sb3_moe.to_dense(model, task=1)
    obs = {"obs": np.full((1, 5), 0.3, np.float32), "task_id": np.array([1])}
    seen = model.policy.obs_to_tensor(obs)[0]
    ours, theirs = (each.policy.get_distribution(seen).distribution for each in (alone, model))
    np.testing.assert_allclose(ours.probs.detach(), theirs.probs.detach(), rtol=1e-4)
