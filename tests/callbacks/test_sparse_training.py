"""Networks most of whose weights are zero, from the first step to the last, through every file."""

import arena
import numpy as np
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
from sb3_moe.callbacks.sparse import sparse_layers
from sb3_moe.measures.budget import describe, measure
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
    networks = sb3_moe.policies.networks.networks_of(model.policy)
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
    sizes = [size if alive else np.inf for size, alive in zip(*flat(old, old_mask), strict=True)]
    dropped = set(np.argsort(sizes)[:number].tolist())
    kept = {i for i, alive in enumerate(old_mask.flatten()) if alive} - dropped
    wanted = [i for i in np.argsort(-seen.gradient.abs().flatten().numpy()) if i not in kept]
    assert set(mask.flatten().nonzero().flatten().tolist()) == kept | set(wanted[:number])


def flat(weight, mask):
    return weight.abs().flatten().tolist(), mask.flatten().tolist()


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
    others = [
        ReDoCallback(64, tau=0.9),
        ResetHeadsCallback(64),
        ShrinkAndPerturbCallback(64),
    ]
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
    message = "`sparsity` and `densities` must be those that the model's masks were drawn with"
    with pytest.raises(ValueError, match=message):
        model.learn(32, sparse(sparsity=0.5))
    with pytest.raises(ValueError, match=message):
        model.learn(32, sparse(densities="uniform"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1}, r"`sparsity` must be in \[0, 1\), got 1"),
        ({"method": "prune"}, r"`method` must be one of \['static', 'set', 'rigl'\], got 'prune'"),
        ({"drop_fraction": 0.0}, "`drop_fraction` must be greater than 0"),
    ],
)
def test_bad_input_says_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        SparseTrainingCallback(**{"sparsity": 0.5, **options})
