"""How dense the layers of a sparse network are, and which connections change."""

import gymnasium as gym
import pytest
import torch as th
from stable_baselines3 import DQN, PPO, SAC

import sb3_moe  # noqa: F401  registers the policies' names
from sb3_moe.callbacks import SparseTrainingCallback
from sb3_moe.callbacks.sparse import (
    DENSITIES,
    annealed,
    counts_of,
    drawn,
    erk,
    generator_of,
    regrown,
    sparse_layers,
)
from sb3_moe.growing import drop_masks
from sb3_moe.measures.weights import incoming
from sb3_moe.policies.masks import masks_in
from sb3_moe.policies.networks import networks_of

OBS, ACT = gym.spaces.Box(-1, 1, (4,)), gym.spaces.Discrete(2)


# 4 x 8 and 8 x 8 weights, a quarter of 96 alive: 24 = scale * (12 + 16), so 12/32 and 16/64 times
# 24/28. Where a layer would be more than dense (half of 10,010 is 5,005) it takes its 10 weights,
# and the other gets 4,995 of 10,000. Of a kernel, height and width count: (16 + 4 + 3 + 3) / 576
# and (8 + 8) / 64, a tenth of 640 alive: 64 = scale * (26 + 16).
BY_HAND = [
    ([(8, 4), (8, 8)], 0.75, [0.375 * 6 / 7, 0.25 * 6 / 7]),
    ([(1000, 10), (1, 10)], 0.5, [0.4995, 1.0]),
    ([(16, 4, 3, 3), (8, 8)], 0.9, [26 / 576 * 64 / 42, 16 / 64 * 64 / 42]),
]


@pytest.mark.parametrize(("shapes", "sparsity", "densities"), BY_HAND)
def test_erk_densities_are_those_worked_out_by_hand(shapes, sparsity, densities):
    assert erk(shapes, sparsity) == pytest.approx(densities)


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
@pytest.mark.parametrize("densities", ["erk", "uniform"])
def test_all_layers_together_are_as_sparse_as_asked_for(densities, sparsity):
    shapes = [(64, 4), (64, 64), (2, 64), (32, 4, 3, 3), (1, 512)]
    sizes = [th.Size(shape).numel() for shape in shapes]
    found = DENSITIES[densities](shapes, sparsity)
    assert max(found) <= 1.0
    alive = sum(density * size for density, size in zip(found, sizes, strict=True))
    assert alive == pytest.approx((1 - sparsity) * sum(sizes))


def model_of(**kwargs):
    return PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu")


def policy(**kwargs):
    return model_of(**kwargs).policy


def masks_of(model):
    return [each for o in networks_of(model.policy).every_optimizer() for each in masks_in(o)]


def begun(model, callback):
    """Let a callback draw masks, and end there."""
    callback.init_callback(model)
    callback.on_training_start({}, {})
    callback.on_training_end()
    return callback


def test_a_layer_keeps_a_weight_however_sparse_it_is():
    layers = sparse_layers(policy(net_arch=[2], placement="none"))
    assert set(counts_of(layers, 0.999, "uniform")) == {1}


def test_each_expert_is_a_layer_of_its_own():
    layers = sparse_layers(policy(placement="all", num_experts=3, net_arch=[8]))
    experts = [layer for layer in layers if layer.num_experts == 3 and layer.network == "pi"]
    # Hidden layer and head, of which the first has two linear layers in each expert.
    assert [layer.shape for layer in experts] == [(8, 4), (8, 8), (2, 8)]
    counts = counts_of(layers, 0.5, "erk")[:3]
    # (12 + 16 + 10) for each of three experts, half of 32 + 64 + 16.
    assert counts == [round(56 * each / 38) for each in (12, 16, 10)]


def test_routers_biases_and_log_std_are_dense():
    model = PPO("MoeMlpPolicy", "Pendulum-v1", policy_kwargs={"router_kwargs": {"hidden": [6]}})
    layers = {layer.weight for layer in sparse_layers(model.policy)}
    left = [name for name, each in model.policy.named_parameters() if each not in layers]
    assert {name.rsplit(".")[-1] for name in left} >= {"log_std", "bias", "bias_EO", "weight_RK"}
    assert all("router" in name for name in left if name.endswith("weight"))


def test_every_network_is_as_sparse_as_asked_for_by_itself():
    layers = sparse_layers(policy(net_arch={"pi": [8], "vf": [64, 64]}))
    counts = counts_of(layers, 0.9, "erk")
    for network in ("pi", "vf"):
        own = [(each, n) for each, n in zip(layers, counts, strict=True) if each.network == network]
        alive = sum(count * layer.num_experts for layer, count in own)
        size = sum(layer.weight.numel() for layer, _ in own)
        assert alive / size == pytest.approx(0.1, rel=0.05)


def slow_regrown(weights, mask, number, scores):
    """Drop one by one the smallest, then grow one by one the best of what isn't kept."""
    alive = [i for i, here in enumerate(mask) if here]
    for _ in range(number):
        alive.remove(min(alive, key=lambda i: abs(weights[i])))
    kept = set(alive)
    for _ in range(number):
        rest = [i for i in range(len(mask)) if i not in alive and i not in kept]
        alive.append(max(rest, key=lambda i: scores[i]))
    return [i in alive for i in range(len(mask))]


@pytest.mark.parametrize("number", [0, 4, 9])
def test_the_smallest_are_dropped_and_the_best_of_the_others_grow(number):
    generator = generator_of(number)
    weights, scores = th.randn(40, generator=generator), th.rand(40, generator=generator)
    mask = drawn(40, 9, generator)
    new = regrown(weights, mask, number, scores)
    assert new.tolist() == slow_regrown(weights.tolist(), mask.tolist(), number, scores.tolist())
    assert new.sum() == 9


def test_the_share_that_changes_falls_along_half_a_cosine():
    shares = [annealed(0.4, progress, 0.8) for progress in (0.0, 0.4, 0.8, 1.0)]
    assert shares == pytest.approx([0.4, 0.2, 0.0, 0.0])


def test_the_same_numbers_draw_the_same_masks_whatever_torchs_generator_does():
    th.manual_seed(0)
    first = drawn(50, 20, generator_of(3, 1))
    th.manual_seed(1)
    assert th.equal(first, drawn(50, 20, generator_of(3, 1)))
    assert not th.equal(first, drawn(50, 20, generator_of(3, 2)))
    assert first.sum() == 20


@pytest.mark.parametrize("kwargs", [{}, {"placement": "none"}, {"placement": "big"}], ids=str)
def test_what_units_read_stays_as_large(kwargs):
    """Each unit's living weights have the norm that all of them would have on the average."""
    dense, sparse = policy(net_arch=[256], **kwargs), model_of(net_arch=[256], **kwargs)
    sparse.policy.load_state_dict(dense.state_dict())
    callback = begun(sparse, SparseTrainingCallback(0.5, densities="uniform", seed=0))
    for one, other in zip(sparse_layers(dense), callback.layers, strict=True):
        before, after = (incoming(la.layer)(la.weight.detach()).flatten(2) for la in (one, other))
        if before.shape[2] > 100:
            ratio = after.square().sum() / before.square().sum()
            assert ratio == pytest.approx(1.0, abs=0.1)
        alive = (after != 0).sum(2, keepdim=True).clamp(min=1)
        expected = before * (before.shape[2] / alive).sqrt() * (after != 0)
        th.testing.assert_close(after, expected)


@pytest.mark.parametrize("rescale", [False, True])
def test_target_networks_start_with_the_same_zeros_and_weights(rescale):
    model = DQN("MlpPolicy", "CartPole-v1", device="cpu")
    begun(model, SparseTrainingCallback(0.5, densities="uniform", seed=0, rescale=rescale))
    pairs = zip(model.q_net.parameters(), model.q_net_target.parameters(), strict=True)
    assert all(th.equal(online, target) for online, target in pairs)


@pytest.mark.parametrize(("algo", "policy"), [(PPO, "MlpPolicy"), (SAC, "MoeMlpPolicy")])
def test_dropped_masks_leave_weights_as_they_are_and_hold_none_from_then_on(algo, policy, tmp_path):
    env = "Pendulum-v1" if algo is SAC else "CartPole-v1"
    options = {"n_steps": 32, "batch_size": 32} if algo is PPO else {"learning_starts": 8}
    model = algo(policy, env, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **options)
    model.learn(32, SparseTrainingCallback(0.8))
    dead = {layer.weight: layer.weight == 0 for layer in sparse_layers(model.policy)}
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    drop_masks(model)
    assert not masks_of(model)
    for name, tensor in model.policy.state_dict().items():
        assert th.equal(tensor, before[name])
    model.save(tmp_path / "model")
    again = algo.load(tmp_path / "model", device="cpu")
    assert not masks_of(again)
    model.learn(64, reset_num_timesteps=False)
    assert all(weight[was].any() for weight, was in dead.items() if was.any())
    model.learn(32, SparseTrainingCallback(0.5), reset_num_timesteps=False)
    assert masks_of(model)
