"""Networks most of whose weights are zero, from the first step to the last, through every file."""

from types import SimpleNamespace

import arena
import pytest
import torch as th
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from toy import toy_vec_env

import sb3_moe
from sb3_moe.callbacks import (
    ReDoCallback,
    ResetHeadsCallback,
    ShrinkAndPerturbCallback,
    SparseTrainingCallback,
)
from sb3_moe.callbacks.sparse import counts_of, drawn, erk, generator_of, regrown, sparse_layers
from sb3_moe.growing import drop_masks
from sb3_moe.measures.budget import describe, measure
from sb3_moe.measures.hidden import incoming
from sb3_moe.policies.masks import masks_in, moments_in
from sb3_moe.policies.networks import networks_of


def make(algo=PPO, policy="MlpPolicy", env=None, **kwargs):
    options = {"n_steps": 32, "batch_size": 16, "n_epochs": 4}
    if algo is A2C:
        options = {"n_steps": 4}
    if algo in (DQN, SAC):
        options = {"learning_starts": 8, "batch_size": 8, "buffer_size": 200, "train_freq": 1}
    if algo is DQN:
        options |= {"target_update_interval": 30}
    env = env or ("Pendulum-v1" if algo is SAC else "CartPole-v1")
    policy_kwargs = {"net_arch": [16, 12]} | kwargs.pop("policy_kwargs", {})
    kwargs = options | {"device": "cpu", "seed": 3} | kwargs
    return algo(policy, env, policy_kwargs=policy_kwargs, **kwargs)


def sparse(method="static", sparsity=0.8, **kwargs):
    changes = {} if method == "static" else {"interval": 5, "drop_fraction": 0.5}
    return SparseTrainingCallback(sparsity, method, **(changes | kwargs))


def followers(model):
    networks = networks_of(model.policy)
    return {
        mine: theirs
        for online, target in networks.targets().items()
        for mine, theirs in zip(online.parameters(), target.parameters(), strict=True)
    }


def masks_of(model):
    optimizers = networks_of(model.policy).every_optimizer()
    return {p: mask for each in optimizers for p, mask in masks_in(each).items()}


def check_zeros(model):
    """Weights, moments and targets are zero where masks say so."""
    optimizers, targets = networks_of(model.policy).every_optimizer(), followers(model)
    masks = masks_of(model)
    assert len(masks) == len(sparse_layers(model.policy))
    moments = {p: m for each in optimizers for p, m in moments_in(each).items()}
    for parameter, mask in masks.items():
        tensors = [parameter, *moments.get(parameter, ())]
        tensors += [targets[parameter]] if parameter in targets else []
        assert not any(tensor.detach()[~mask].any() for tensor in tensors)


def counts(model):
    return {name: int(mask.sum()) for name, mask in named_masks(model).items()}


def named_masks(model):
    masks = masks_of(model)
    return {name: masks[p] for name, p in model.policy.named_parameters() if p in masks}


class Watch(BaseCallback):
    """Check now and then that nothing has grown that shouldn't."""

    def _on_step(self):
        if self.n_calls % 7:
            return True
        check_zeros(self.model)
        self.counts = getattr(self, "counts", counts(self.model))
        assert counts(self.model) == self.counts
        return True


@pytest.mark.parametrize(
    ("algo", "policy", "method"),
    [
        (PPO, "MlpPolicy", "static"),
        (PPO, "MoeMlpPolicy", "rigl"),
        (DQN, "MoeMlpPolicy", "set"),
        pytest.param(SAC, "MlpPolicy", "set", marks=pytest.mark.full),
    ],
)
def test_as_many_weights_as_asked_for_stay_zero_for_hundreds_of_updates(algo, policy, method):
    more = {"n_epochs": 10} if algo is PPO else {"gradient_steps": 4}
    model, updates = make(algo, policy, **more), []
    for optimizer in networks_of(model.policy).every_optimizer():
        optimizer.register_step_post_hook(lambda *args: updates.append(args))
    model.learn(320 if algo is PPO else 64, [sparse(method), Watch()])
    assert len(updates) >= 200
    check_zeros(model)
    layers = sparse_layers(model.policy)
    alive = sum(counts(model).values()) / sum(layer.weight.numel() for layer in layers)
    assert alive == pytest.approx(0.2, abs=0.01)


FULL = ("MaskablePPO", "A2C", "QRDQN", "TQC", "TD3", "DDPG")
ALGORITHMS = ["RecurrentPPO", "CrossQ", *(pytest.param(n, marks=pytest.mark.full) for n in FULL)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_policies_of_other_algorithms_are_sparse_too(algorithm):
    lstm = "Lstm" if algorithm == "RecurrentPPO" else ""
    model = arena.make(algorithm, f"MoeMlp{lstm}Policy", net_arch=[12, 8])
    model.learn(48, [sparse("rigl"), Watch()])
    check_zeros(model)


def test_connections_that_change_are_refused_for_trpo():
    with pytest.raises(ValueError, match=r"method='rigl'\) can't be used with TRPO"):
        arena.make("TRPO", "MoeMlpPolicy", net_arch=[12, 8]).learn(48, sparse("rigl"))


class Seen(SparseTrainingCallback):
    """Keep weight, mask and gradient of the first layer before the last change, and after it."""

    def _regrow(self, optimizer):
        layer = self.layers[0]
        masks = masks_of(self.model)
        self.before = [each.detach().clone() for each in (layer.weight, masks[layer.weight])]
        self.gradient = layer.weight.grad.clone()
        self.share = self._fraction()
        super()._regrow(optimizer)
        self.after = [each.detach().clone() for each in (layer.weight, masks[layer.weight])]


def test_rigl_grows_where_the_gradient_of_the_whole_network_is_largest():
    seen = Seen(0.5, "rigl", interval=20, drop_fraction=0.8)
    make(DQN).learn(60, seen)
    (old, old_mask), (_, mask) = seen.before, seen.after
    number = int(seen.share * int(old_mask.sum()))
    assert number >= 3
    before = (old.flatten().tolist(), old_mask.flatten().tolist())
    grown = slow_regrown(*before, number, seen.gradient.abs().flatten().tolist())
    assert mask.flatten().tolist() == grown


def test_dead_weights_dont_count_where_gradients_are_clipped():
    """Against the network with the zeros taken out of its gradient by hand."""
    model = make(max_grad_norm=0.01, n_epochs=1, batch_size=32)
    norms = []
    model.policy.optimizer.register_step_pre_hook(
        lambda optimizer, *args: norms.append(
            th.stack(
                [p.grad[m].norm() for p, m in masks_of(model).items()]
                + [p.grad.norm() for p in model.policy.parameters() if p not in masks_of(model)]
            ).norm()
        )
    )
    model.learn(64, sparse())
    assert norms == pytest.approx([0.01] * len(norms), rel=1e-3)


def test_an_expert_without_rows_keeps_weights_masks_and_moments():
    env = toy_vec_env((0,))
    model = make(DQN, "MoeMultiInputPolicy", env, policy_kwargs={"router": "task"})
    model.learn(40, sparse("set"))
    layer = next(each for each in sparse_layers(model.policy) if each.num_experts == 3)
    state = model.policy.optimizer.state[layer.weight]
    tensors = [layer.weight, masks_of(model)[layer.weight], state["exp_avg"]]
    before = [tensor.detach().clone() for tensor in tensors]
    model.learn(60, sparse("set"), reset_num_timesteps=False)
    after = [layer.weight, masks_of(model)[layer.weight], state["exp_avg"]]
    for one, other in zip(before, after, strict=True):
        assert th.equal(one[1:], other[1:])
        assert not th.equal(one[0], other[0])


@pytest.mark.parametrize(("algo", "first"), [(PPO, True), (DQN, False)])
def test_interventions_beside_it_leave_dead_weights_dead(algo, first):
    others = [ReDoCallback(64, tau=0.9), ResetHeadsCallback(64), ShrinkAndPerturbCallback(64)]
    callbacks = [sparse("set"), *others] if first else [*others, sparse("set")]
    make(algo).learn(130, [*callbacks, Watch()])


def test_what_is_alive_is_logged_printed_and_counted(capsys):
    model = make(policy="MoeMlpPolicy")
    dense = measure(model.policy).total
    model.learn(64, sparse("set", verbose=1), log_interval=10**6)
    alive = sum(counts(model).values())
    assert model.logger.name_to_value["sparsity/changed"] > 0
    layers = sparse_layers(model.policy)
    size = sum(layer.weight.numel() for layer in layers)
    assert f"{alive:,} of {size:,} weights are alive" in capsys.readouterr().out
    budget = describe(model)
    assert f"sparse: {alive:,} of {size:,} weights are alive" in capsys.readouterr().out
    assert budget.total.parameters == budget.total.active == dense.parameters - size + alive
    assert budget.total.flops == dense.flops


def test_a_model_with_masks_refuses_another_sparsity():
    model = make()
    model.learn(32, sparse())
    message = "`sparsity` and `densities` must be those of the masks in the model"
    with pytest.raises(ValueError, match=message):
        model.learn(32, sparse(sparsity=0.5))
    with pytest.raises(ValueError, match=message):
        model.learn(32, sparse(densities="uniform"))
    model = make(policy="MoeMlpPolicy", policy_kwargs={"frozen_experts": {"pi": [0]}})
    with pytest.raises(ValueError, match="must have no frozen experts where masks are drawn"):
        model.learn(32, sparse())


def test_experts_are_frozen_only_where_masks_no_longer_change():
    model = make(policy="MoeMlpPolicy")
    model.learn(32, sparse("static"))
    sb3_moe.freeze_experts(model, [0])
    before = model.policy.get_expert("pi", 0).state_dict()
    model.learn(32, sparse("static"))
    after = model.policy.get_expert("pi", 0).state_dict()
    assert all(th.equal(before[name], after[name]) for name in before)
    with pytest.raises(ValueError, match="must have no frozen experts where masks"):
        model.learn(32, sparse("set"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1}, r"`sparsity` must be in \[0, 1\), got 1"),
        ({"method": "prune"}, r"`method` must be one of \['static', 'set', 'rigl'\], got 'prune'"),
        ({"drop_fraction": 0.0}, r"`drop_fraction` must be in \(0, 1"),
    ],
)
def test_bad_input_says_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        SparseTrainingCallback(**{"sparsity": 0.5, **options})


# Densities and masks by hand.

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


def model_of(**kwargs):
    return make(policy="MoeMlpPolicy", policy_kwargs=kwargs)


def policy(**kwargs):
    return model_of(**kwargs).policy


def begun(model, callback):
    """Let a callback draw masks, and end there."""
    callback.init_callback(model)
    callback.on_training_start({}, {})
    callback.on_training_end()
    return callback


def test_a_layer_keeps_a_weight_however_sparse_it_is():
    layers = sparse_layers(policy(net_arch=[2], placement="none"))
    assert set(counts_of(layers, 0.999, "uniform")) == {1}
    assert counts_of(layers, 0.0, "uniform") == [layer.weight.numel() for layer in layers]


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


def test_the_share_that_changes_falls_along_half_a_cosine():
    callback, shares = SparseTrainingCallback(0.5, "set", drop_fraction=0.4), []
    for step in (0, 40, 80, 100):
        callback.model = SimpleNamespace(num_timesteps=step, _total_timesteps=100)
        shares.append(callback._fraction())
    assert shares == pytest.approx([0.4, 0.2, 0.0, 0.0])


def test_the_same_numbers_draw_the_same_masks_whatever_torchs_generator_does():
    th.manual_seed(0)
    first = drawn(50, 20, generator_of(3, 1))
    th.manual_seed(1)
    assert th.equal(first, drawn(50, 20, generator_of(3, 1)))
    assert not th.equal(first, drawn(50, 20, generator_of(3, 2)))


@pytest.mark.parametrize("kwargs", [{}, {"placement": "none"}, {"placement": "big"}], ids=str)
def test_what_units_read_stays_as_large(kwargs):
    """Each unit's living weights have the norm that all of them would have on the average."""
    dense, sparse = policy(net_arch=[256], **kwargs), model_of(net_arch=[256], **kwargs)
    sparse.policy.load_state_dict(dense.state_dict())
    callback = begun(sparse, SparseTrainingCallback(0.5, densities="uniform", seed=0))
    for one, other in zip(sparse_layers(dense), callback.layers, strict=True):
        before, after = (incoming(la.layer)(la.weight.detach()).flatten(2) for la in (one, other))
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
    model = make(algo, policy, policy_kwargs={"net_arch": [8]})
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
