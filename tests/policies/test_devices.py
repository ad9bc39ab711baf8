"""Every policy trains on a GPU, and a forward pass makes no tensor on the host.

Where there is no GPU the meta device stands for it: it has no data, so that a pass which waits for
a value fails, and a tensor that was made on the host shows.
"""

import arena
import numpy as np
import pytest
import torch as th
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sb3_moe.networks import networks_of

NO_GPU = pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU that torch can use")
CUDA = pytest.param("cuda", marks=[pytest.mark.cuda, NO_GPU])
PLACEMENTS = ("none", "middle", "final", "all", "big")
ROUTERS = ("soft", "top_k", "task", "uniform", "random")


class OnDeviceOnly(TorchDispatchMode):
    """Note every operation that makes a tensor on the host."""

    def __init__(self):
        super().__init__()
        self.on_host = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, th.Tensor) and each.device.type == "cpu":
                self.on_host.append(str(func))
        return out


def make(algorithm, alias="MoeMultiInputPolicy", **options):
    return arena.make(algorithm, alias, net_arch=[8], **options)


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize(("algorithm", "alias"), arena.PAIRS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_policy_trains_on_the_gpu(algorithm, alias, placement, device):
    model = arena.train(make(algorithm, alias, placement=placement, device=device))
    assert all(parameter.is_cuda for parameter in model.policy.parameters())
    assert all(buffer.is_cuda for buffer in model.policy.buffers())
    assert np.isfinite(arena.predict(model, arena.observe(model))).all()


def operations_on_host(model, device):
    """Send observations through every network in training mode; return what ran on the host."""
    policy = model.policy
    obs, _ = policy.obs_to_tensor(arena.observe(model, 4))
    obs = {key: tensor.to(device) for key, tensor in obs.items()}
    actions = th.zeros(4, 2, device=device)
    policy.to(device).set_training_mode(True)
    with OnDeviceOnly() as watch:
        if hasattr(policy, "mlp_extractor"):
            latent_pi, latent_vf = policy.mlp_extractor(policy.extract_features(obs))
            policy.action_net(latent_pi)
            policy.value_net(latent_vf)
        elif hasattr(policy, "critic"):
            # SAC's distributions check their arguments' values, so they are left out.
            getattr(policy.actor, "get_action_dist_params", policy.actor)(obs)
            policy.critic(obs, actions)
        else:
            networks_of(policy).run(obs)
    return watch.on_host


def test_a_tensor_that_is_made_on_the_host_shows():
    with OnDeviceOnly() as watch:
        th.zeros(3, device="meta") + 1.0
        th.zeros(3)
    assert watch.on_host == ["aten.zeros.default"]


@pytest.mark.covering
@pytest.mark.parametrize("device", ["meta", CUDA])
@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("placement", PLACEMENTS[1:])
@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "SAC", "TD3", "QRDQN", "TQC"])
def test_networks_make_no_tensor_on_the_host(algorithm, placement, router, device):
    options = {"placement": placement, "router": router}
    if router == "top_k":
        options |= {"bias_rate": 0.1, "balance_coef": 0.1}
    assert operations_on_host(make(algorithm, **options), device) == []


@pytest.mark.parametrize("device", ["meta", CUDA])
@pytest.mark.parametrize("tokens", ["conv", "feature"])
@pytest.mark.parametrize("router", [*ROUTERS, "expert_choice"])
def test_tokens_of_a_map_are_routed_on_the_device(router, tokens, device):
    assert operations_on_host(make("PPO", router=router, tokens=tokens), device) == []


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
