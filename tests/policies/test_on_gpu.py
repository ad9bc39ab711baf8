"""Every policy on a GPU: it trains there, and a forward pass makes no tensor on the host."""

import arena
import numpy as np
import pytest
import torch as th
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU that torch can use"),
]
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


def make(algorithm, alias, **options):
    return arena.make(algorithm, alias, device="cuda", net_arch=[8], **options)


def tensors_on_device(model):
    obs, _ = model.policy.obs_to_tensor(arena.observe(model, 4))
    return obs, th.zeros(4, 2, device="cuda")


@pytest.mark.parametrize(("algorithm", "alias"), arena.PAIRS)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_policy_trains_on_the_gpu(algorithm, alias, placement):
    model = arena.train(make(algorithm, alias, placement=placement))
    assert all(parameter.is_cuda for parameter in model.policy.parameters())
    assert all(buffer.is_cuda for buffer in model.policy.buffers())
    assert np.isfinite(arena.predict(model, arena.observe(model))).all()


def run(policy, obs, actions):
    """Send observations through every network, as training does."""
    if hasattr(policy, "mlp_extractor"):
        latent_pi, latent_vf = policy.mlp_extractor(policy.extract_features(obs))
        policy.action_net(latent_pi)
        policy.value_net(latent_vf)
    elif hasattr(policy, "critic"):
        policy.actor(obs)
        policy.critic(obs, actions)
    else:
        policy._run_towers(obs, None)


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "SAC", "TD3", "QRDQN", "TQC"])
@pytest.mark.parametrize("placement", PLACEMENTS[1:])
def test_networks_make_no_tensor_on_the_host(algorithm, placement, router):
    options = {"placement": placement, "router": router}
    if router == "top_k":
        options["bias_rate"] = 0.1
    model = make(algorithm, "MoeMultiInputPolicy", **options)
    obs, actions = tensors_on_device(model)
    model.policy.set_training_mode(True)
    with OnDeviceOnly() as watch:
        run(model.policy, obs, actions)
    assert watch.on_host == []


@pytest.mark.parametrize("tokens", ["conv", "feature"])
@pytest.mark.parametrize("router", [*ROUTERS, "expert_choice"])
def test_tokens_of_a_map_are_routed_on_the_gpu(router, tokens):
    model = make("PPO", "MoeMultiInputPolicy", router=router, tokens=tokens)
    obs, actions = tensors_on_device(model)
    with OnDeviceOnly() as watch:
        run(model.policy, obs, actions)
    assert watch.on_host == []
    arena.train(model)


@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "SAC"])
def test_a_gpu_computes_what_a_cpu_does(algorithm, tmp_path):
    model = make(algorithm, "MoeMultiInputPolicy", router="top_k", top_k=2)
    model.save(tmp_path / "model")
    on_cpu = type(model).load(tmp_path / "model", device="cpu")
    obs = arena.observe(model, 5)
    for name, routing in model.policy.routing(obs).items():
        expected = on_cpu.policy.routing(obs)[name].gates_BNE
        th.testing.assert_close(routing.gates_BNE.cpu(), expected, atol=1e-4, rtol=1e-3)
