"""Every policy trains on a GPU; where there is none, ``test_fake_device`` stands for it."""

import arena
import numpy as np
import pytest
import torch as th

NO_GPU = pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU that torch can use")
CUDA = pytest.param("cuda", marks=[pytest.mark.cuda, NO_GPU])
PLACEMENTS = ("none", "middle", "final", "all", "big")


def make(algorithm, alias="MoeMultiInputPolicy", **options):
    return arena.make(algorithm, alias, net_arch=[8], **options)


@pytest.mark.covering
@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize(("algorithm", "alias"), arena.PAIRS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_policy_trains_on_the_gpu(algorithm, alias, placement, device):
    model = arena.train(make(algorithm, alias, placement=placement, device=device))
    assert all(parameter.is_cuda for parameter in model.policy.parameters())
    assert all(buffer.is_cuda for buffer in model.policy.buffers())
    assert np.isfinite(arena.predict(model, arena.observe(model))).all()


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "SAC"])
def test_a_gpu_computes_what_a_cpu_does(algorithm, device, tmp_path):
    model = make(algorithm, router="top_k", top_k=2, device=device)
    model.save(tmp_path / "model")
    on_cpu = type(model).load(tmp_path / "model", device="cpu")
    obs = arena.observe(model, 5)
    for name, routing in model.policy.routing(obs).items():
        expected = on_cpu.policy.routing(obs)[name].gates_BNE
        th.testing.assert_close(routing.gates_BNE.cpu(), expected, atol=1e-4, rtol=1e-3)
