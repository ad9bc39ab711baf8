import arena
import gymnasium as gym
import pytest
import torch as th
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

import sb3_moe
from sb3_moe.layers import ExpertChoiceMoE, RouterInput, StackedNetwork, UniformMoE
from sb3_moe.layers.orthonormal import gram_schmidt
from sb3_moe.measures import matching_net_arch, measure
from sb3_moe.measures.budget import counting, mixture_flops
from sb3_moe.policies.on_policy import MoeMlpPolicy

OBS, ACT = gym.spaces.Box(-1, 1, (4,)), gym.spaces.Discrete(2)


def policy(**kwargs):
    return MoeMlpPolicy(OBS, ACT, lambda _: 1e-3, **kwargs)


def test_a_dense_network_costs_what_counting_by_hand_gives():
    # 4 -> 3 -> 2 for the actor: weights 12 + 6, biases 3 + 2; two operations per weight.
    cost = measure(policy(placement="none", net_arch=[3])).parts["pi"]
    assert (cost.parameters, cost.active, cost.flops) == (23, 23, 36)


def test_a_soft_layer_costs_all_experts_and_the_router():
    # Expert 4 -> 3 -> 3: 12 + 9 weights, 6 biases. Router 4 x 2. Head 3 -> 2: 6 weights, 2 biases.
    cost = measure(policy(net_arch=[3], num_experts=2)).parts["pi"]
    assert cost.parameters == cost.active == 2 * 27 + 8 + 8
    assert cost.flops == 2 * (2 * 21 + 8 + 6)


def test_a_top_1_token_uses_one_expert_of_many():
    cost = measure(policy(net_arch=[3], num_experts=5, router="top_k")).parts["pi"]
    assert cost.parameters == 5 * 27 + 5 * 4 + 8
    assert cost.active == 27 + 5 * 4 + 8
    assert cost.flops == 2 * (21 + 5 * 4 + 6)


@pytest.mark.covering
@pytest.mark.parametrize("match", ["parameters", "flops"])
@pytest.mark.parametrize("placement", ["middle", "final", "all", "big"])
def test_the_matching_dense_network_costs_nearly_the_same(placement, match):
    kwargs = {"placement": placement, "num_experts": 3}
    arch = matching_net_arch(MoeMlpPolicy, OBS, ACT, kwargs, match)
    moe, dense = measure(policy(**kwargs)), measure(policy(placement="none", net_arch=arch))
    for network in ("pi", "vf"):
        wanted = getattr(moe.parts[network], match)
        assert getattr(dense.parts[network], match) == pytest.approx(wanted, rel=0.03)
    with pytest.raises(ValueError, match="`net_arch` of 'pi' must have a hidden layer to widen"):
        matching_net_arch(MoeMlpPolicy, OBS, ACT, {"placement": "final", "net_arch": []}, match)


def test_describe_prints_what_the_networks_are(capsys):
    model = PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs={"placement": {"pi": "big"}})
    budget = sb3_moe.describe(model)
    printed = capsys.readouterr().out
    assert "pi.big: soft router, 4 experts" in printed
    assert "vf.middle: soft router, 4 experts" in printed
    assert f"{budget.total.parameters:,}" in printed


def test_an_encoder_that_all_critics_run_costs_each_of_them_its_flops():
    env = arena.default_env("SAC", "MoeCnnPolicy")
    options = {"placement": {"pi": "big", "qf": "none"}, "net_arch": [8]}
    model = SAC("MoeCnnPolicy", env, policy_kwargs=options, buffer_size=10, device="cpu")
    parts = measure(model.policy).parts
    assert parts["qf0"].flops == parts["qf1"].flops > 0
    assert parts["qf0"].parameters > parts["qf1"].parameters


def test_the_dense_twin_of_a_mixture_whose_router_alone_sees_the_id_sees_it_too():
    box = gym.spaces.Box(-1, 1, (6,))
    spaces = (
        gym.spaces.Dict({"obs": box, "task_id": gym.spaces.Discrete(5)}),
        gym.spaces.Discrete(2),
    )
    policy = PPO.policy_aliases["MoeMultiInputPolicy"]
    options = {"placement": "big", "net_arch": [16], "num_experts": 3, "task_input": "router"}

    def parameters(**kwargs):
        built = policy(*spaces, lambda _: 1e-3, **kwargs)
        return sum(each.numel() for each in built.parameters())

    wide = matching_net_arch(policy, *spaces, options)
    found = parameters(placement="none", net_arch=wide)
    assert abs(found - parameters(**options)) <= 2 * (6 + 5 + 1 + 2)  # a unit of either network
    by_network = options | {"task_input": {"pi": "router", "vf": "router"}}
    assert matching_net_arch(policy, *spaces, by_network) == wide


@pytest.mark.parametrize(
    ("layer", "shape", "flops"),
    [
        (nn.Conv1d(3, 4, 5), (2, 3, 9), 2 * (2 * 4 * 5) * 3 * 5),
        (nn.ConvTranspose2d(2, 3, 2), (1, 2, 4, 4), 2 * (2 * 16) * 3 * 4),
        (nn.GRU(3, 4), (5, 2, 3), 2 * (5 * 2) * 3 * 4 * (3 + 4)),
    ],
    ids=["Conv1d", "ConvTranspose2d", "GRU"],
)
def test_convolutions_and_recurrent_layers_count_their_products(layer, shape, flops):
    with counting(layer, [layer]) as count:
        layer(th.zeros(shape))
    assert count.by_part == {layer: flops}
    assert count.outside == 0


def test_the_flops_of_a_compiled_network_are_those_of_the_network():
    layer = nn.Linear(3, 4)
    compiled = th.compile(layer, backend="eager")
    with counting(layer, [layer]) as count:
        compiled(th.zeros(2, 3))
    assert count.by_part == {layer: 2 * 2 * 3 * 4}


class Twice(BaseFeaturesExtractor):
    """Uses a layer twice, and ties another's weights to it."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=4)
        self.layer, self.tied = nn.Linear(4, 4), nn.Linear(4, 4)
        self.tied.weight = self.layer.weight

    def forward(self, observations):
        return self.tied(self.layer(self.layer(observations)))


@pytest.mark.parametrize("shared", [True, False])
def test_a_layer_counts_as_often_as_it_is_used_and_its_weights_once(shared):
    it = policy(
        placement="none",
        net_arch=[3],
        features_extractor_class=Twice,
        share_features_extractor=shared,
    )
    budget, number = measure(it), 1 if shared else 2
    assert budget.parts["features"].parameters == number * (16 + 4 + 4)
    assert budget.parts["features"].flops == number * 3 * 2 * 16
    assert budget.total.parameters == sum(each.numel() for each in it.parameters())


def test_orthonormal_outputs_cost_two_products_a_pair_and_a_norm_for_each():
    layer = UniformMoE(
        StackedNetwork([nn.Linear(5, 4) for _ in range(4)]), RouterInput(features=5, num_experts=4)
    )
    x = th.randn(7, 5)
    _, routing = layer(x)
    experts = 4 * (2 * 5 * 4)
    assert mixture_flops(layer, x, routing) == 7 * experts
    layer.experts.combination = gram_schmidt
    # Six pairs: a product of two rows of four numbers, and as much to subtract its share. Four
    # norms: a product of each row with itself, and four divisions.
    pairs, norms = 6 * (2 * 4 + 2 * 4), 4 * (2 * 4 + 4)
    assert mixture_flops(layer, x, routing) == 7 * (experts + pairs + norms)


def test_experts_that_choose_tokens_run_on_equally_many():
    experts = StackedNetwork([nn.Linear(5, 4) for _ in range(3)])
    layer = ExpertChoiceMoE(experts, RouterInput(features=5, num_experts=3, num_tokens=7), top_k=2)
    x = th.randn(2, 7, 5)
    with counting(layer) as count:
        _, routing = layer(x, x)
    assert count.share == {layer: 2 / 3}
    # Each of three experts takes ceil(7 * 2 / 3) = 5 tokens of both samples.
    assert mixture_flops(layer, x, routing) == 2 * 3 * 5 * (2 * 5 * 4)


def test_a_layer_that_torch_does_not_count_is_named():
    layer = nn.Bilinear(2, 3, 4)
    with pytest.warns(UserWarning, match="FLOPs of Bilinear count as 0"), counting(layer, [layer]):
        layer(th.zeros(1, 2), th.zeros(1, 3))
