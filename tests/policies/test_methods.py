"""Methods of other papers as options: whole policies against slow versions, and what is refused."""

import arena
import pytest
import reference
import torch as th
from stable_baselines3 import A2C, PPO
from torch import nn

import sb3_moe
from sb3_moe import presets
from sb3_moe.layers import MoELayer
from sb3_moe.layers.aux_loss import without_added_losses
from sb3_moe.layers.encoder import Residual
from sb3_moe.layers.fixed_moe import TaskEmbedding
from sb3_moe.policies.networks import networks_of
from sb3_moe.policies.task_gradients import TaskGradients, pcgrad

ROWS = 6


def world(algorithm="PPO"):
    return arena.Arena(arena.with_task(arena.FLAT), arena.actions_of(algorithm))


def make(algorithm="PPO", alias="MoeMultiInputPolicy", env=None, **options):
    options = {"net_arch": [8, 8], **options}
    return arena.make(algorithm, alias, env or world(algorithm), **options)


def observations():
    """Return x, task by task, and the observations that hold both."""
    th.manual_seed(1)
    x, tasks = th.rand(ROWS, 5) * 2 - 1, th.arange(ROWS) % arena.NUM_TASKS
    return x, tasks, {"obs": x, "task_id": tasks.unsqueeze(1)}


def network_of(model, network="pi"):
    return networks_of(model.policy).modules()[network]


def outputs(model, obs, network="pi"):
    """Return what a network makes of observations: logits, or values."""
    policy = model.policy
    if hasattr(policy, "value_net"):
        latent = policy.mlp_extractor.policy_net(policy.extract_features(obs))
        return policy.action_net(latent)
    return policy.q_net(obs)


def assert_same(fast, slow, modules):
    """Compare values, and the gradients of all parameters of a network."""
    th.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)
    parameters = list(dict.fromkeys(p for each in modules for p in each.parameters()))
    ours, theirs = (reference.gradients(y, parameters) for y in (fast, slow))
    th.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert any(g.abs().max() > 1e-4 for g in theirs)


def heads_of(layer):
    """Return each task's linear head as (weight, bias)."""
    last = layer.experts.last
    return list(zip(last.weight_EOI, last.bias_EO, strict=True))


def larger_heads(model):
    """Undo PPO's small heads, which would hide differences."""
    with th.no_grad():
        for layer in model.policy.moe_layers().values():
            layer.experts.scale(3.0)
    return model


@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_moore_is_the_slow_version(algorithm):
    model = larger_heads(make(algorithm, **presets.MOORE, activation_fn=nn.Tanh))
    x, tasks, obs = observations()
    network = "pi" if algorithm == "PPO" else "qf"
    body, head = (m for name, m in model.policy.moe_layers().items() if name.startswith(network))
    rows = []
    for row, task in zip(x, tasks.tolist(), strict=True):
        units = reference.outputs(body, row)
        weights = body.task_weights.weight_KW[task]
        hidden = sum(w * unit for w, unit in zip(weights, units, strict=True)).tanh()
        weight, bias = heads_of(head)[task]
        rows.append(weight @ hidden + bias)
    assert_same(outputs(model, obs), th.stack(rows), network_of(model, network))


@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_pacos_network_is_one_of_parameters_summed_for_the_task(algorithm):
    model = larger_heads(make(algorithm, **presets.PACO, activation_fn=nn.ReLU))
    x, tasks, obs = observations()
    network = "pi" if algorithm == "PPO" else "qf"
    layers = [m for name, m in model.policy.moe_layers().items() if name.startswith(network)]
    assert [layer.num_experts for layer in layers] == [5, 5, 5]
    assert len({id(layer.task_weights) for layer in layers}) == 1
    pairs = zip(x, tasks.tolist(), strict=True)
    slow = [reference.paco(layers, row, task, th.relu) for row, task in pairs]
    assert_same(outputs(model, obs), th.stack(slow), network_of(model, network))


def test_each_network_has_a_map_of_its_own():
    layers = make("SAC", **presets.PACO).policy.moe_layers()
    maps = {name: id(layer.task_weights) for name, layer in layers.items()}
    by_network = {
        network: {i for n, i in maps.items() if n.startswith(network)}
        for network in ("pi", "qf0", "qf1")
    }
    assert [len(ids) for ids in by_network.values()] == [1, 1, 1]
    assert len(set.union(*by_network.values())) == 3
    own = make("SAC", **{**presets.PACO, "router_kwargs": {"bias": True}}).policy.moe_layers()
    assert len({id(layer.task_weights) for layer in own.values()}) == len(own)


@pytest.mark.parametrize("task_input", ["both", "router"])
def test_multi_head_is_a_body_and_a_head_for_each_task(task_input):
    model = larger_heads(make(**presets.MULTI_HEAD, task_input=task_input))
    x, tasks, obs = observations()
    body, head = network_of(model)
    linears = [m for m in body.modules() if isinstance(m, nn.Linear)]
    (layer,) = (m for name, m in model.policy.moe_layers().items() if name.startswith("pi"))
    rows = []
    for row, task in zip(x, tasks.tolist(), strict=True):
        seen = th.cat([row, th.eye(3)[task]]) if task_input == "both" else row
        for linear in linears:
            seen = (linear.weight @ seen + linear.bias).tanh()
        weight, bias = heads_of(layer)[task]
        rows.append(weight @ seen + bias)
    assert linears[0].in_features == (8 if task_input == "both" else 5)
    assert_same(outputs(model, obs), th.stack(rows), [body, head])


@pytest.mark.parametrize("widths", [[8], [8, 8], [8, 6]])
def test_a_dense_simba_network_is_the_slow_version(widths):
    model = make("DQN", **presets.SIMBA, net_arch=widths)
    _, _, obs = observations()
    (network,) = network_of(model, "qf")
    layers = list(network.blocks)
    blocks = [m for m in layers if isinstance(m, Residual)]
    assert [m.block[1].out_features for m in blocks] == [4 * width for width in widths]
    assert isinstance(layers[-2], nn.LayerNorm)
    features = model.policy.q_net.extract_features(obs, model.policy.q_net.features_extractor)
    slow = th.stack([reference.simba(layers, row) for row in features])
    assert_same(outputs(model, obs), slow, [network])


NORMED = ["Linear", "LayerNorm", "ReLU"]


@pytest.mark.parametrize(
    ("placement", "around", "inside"),
    [
        ("none", [*NORMED, *NORMED, "Linear"], []),
        ("middle", [*NORMED, "SoftMoE", "Linear"], [*NORMED, "Linear"]),
        ("body", ["SoftMoE", "LayerNorm", "ReLU", "Linear"], [*NORMED, "Linear"]),
        ("big", ["SoftMoE"], [*NORMED, *NORMED, "Linear"]),
    ],
)
def test_layer_norm_stands_before_each_activation(placement, around, inside):
    model = make("DQN", placement=placement, block="layer_norm", activation_fn=nn.ReLU)
    _, _, obs = observations()
    (network,) = network_of(model, "qf")
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.bias)
    assert [type(m).__name__ for m in network.blocks] == around
    x = model.policy.q_net.extract_features(obs, model.policy.q_net.features_extractor)
    onehot = x[:, network.layout.x_dim :]
    for i, block in enumerate(network.blocks):
        if not isinstance(block, MoELayer):
            x = block(x)
            continue
        made = [block.experts.expert(k) for k in range(block.num_experts)]
        assert [type(m).__name__ for m in made[0]] == inside
        seen = th.cat([x, onehot], 1) if i else x
        gates = block(x, seen)[1].gates_BNE[:, 0]
        each = th.stack([expert(x) for expert in made], 1)
        x = (gates.unsqueeze(-1) * each).sum(1)
    th.testing.assert_close(outputs(model, obs), x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("placement", ["none", "middle", "final", "big"])
def test_a_task_embedding_stands_where_the_one_hot_would(placement):
    model = make(placement=placement, task_embedding=2, activation_fn=nn.ReLU)
    _, tasks, obs = observations()
    modules = network_of(model)
    found = {m for each in modules for m in each.modules() if isinstance(m, TaskEmbedding)}
    assert len(found) == 1
    (embedding,) = found
    plain = make(placement=placement, activation_fn=nn.ReLU)
    sizes = [sum(p.numel() for p in each.policy.parameters()) for each in (model, plain)]
    assert sizes[0] != sizes[1]
    logits = outputs(model, obs)
    with th.no_grad():
        embedding.weight_KW[1] = embedding.weight_KW[0]
    moved = (outputs(model, obs) != logits).any(dim=1)
    assert moved.tolist() == (tasks == 1).tolist()


def test_conflicting_gradients_are_projected_by_hand():
    first, second = th.tensor([1.0, 0.0]), th.tensor([-1.0, 1.0])
    # (1, 0) + (-1, 1) / 2, and (-1, 1) + (1, 0).
    assert pcgrad(th.stack([first, second])).tolist() == pytest.approx([0.5, 1.5])
    assert pcgrad(th.stack([first, -second])).tolist() == pytest.approx([2.0, -1.0])
    assert pcgrad(th.stack([first, 0 * first])).tolist() == [1.0, 0.0]


def gradient_of(policy, obs, network, weights, rows=None):
    """Return the gradient of a loss on all that is learned, or on some rows of one network."""
    th.manual_seed(3)
    if hasattr(policy, "q_net"):
        asked = {"qf": [policy.q_net(obs)]}
    elif network == "qf":
        asked = {"qf": policy.critic(obs, th.rand(ROWS, 2))}
    elif hasattr(policy, "actor"):
        asked = {"pi": policy.actor.action_log_prob(obs)}
    else:
        values, *of_actor = policy.evaluate_actions(obs, th.arange(ROWS) % 4)
        asked = {"pi": of_actor, "vf": [values]}
    flat = [(n, y.flatten(1)) if y.dim() > 1 else (n, y[:, None]) for n in asked for y in asked[n]]
    weighed = [(name, (th.randn(y.shape) * y).sum(1)) for name, y in flat]
    parts = [y_B.sum() if rows is None else y_B[rows].sum() for n, y_B in weighed if n == network]
    parts += [] if rows is not None else [y_B.sum() for n, y_B in weighed if n != network]
    th.manual_seed(4)
    return th.cat([each.flatten() for each in reference.gradients(sum(parts), weights)])


@pytest.mark.parametrize(
    ("algorithm", "network", "options"),
    [
        ("PPO", "pi", {"placement": "big", "balance_coef": 0.5}),
        ("A2C", "vf", {"placement": "none", "share_features_extractor": False}),
        ("SAC", "pi", {"placement": "none"}),
        ("TD3", "qf", {"head_router": "task"}),
        ("DQN", "qf", {"balance_coef": 0.5}),
    ],
)
def test_pcgrad_is_the_slow_version(algorithm, network, options):
    policy = make(algorithm, task_gradients={network: "pcgrad"}, **options).policy
    parts = {"SAC": "actor", "TD3": "critic", "DQN": "q_net"}
    owner, (_, tasks, obs) = getattr(policy, parts.get(algorithm, ""), policy), observations()
    weights = list(owner.parameters())
    policy.set_training_mode(True)
    combined = gradient_of(policy, obs, network, weights)
    th.manual_seed(4)
    orders = [th.randperm(3).tolist() for _ in range(3)]
    plain = TaskGradients(None, policy.observation_space, policy)
    owner.task_gradients = dict.fromkeys(policy.moe, plain) if owner is policy else plain
    plain = gradient_of(policy, obs, network, weights)
    with without_added_losses():
        own = [gradient_of(policy, obs, network, weights, tasks == k) for k in range(3)]
    expected = plain - sum(own) + reference.pcgrad(own, orders)
    th.testing.assert_close(combined, expected, atol=1e-5, rtol=1e-4)
    assert not th.allclose(combined, plain, atol=1e-3)


def test_an_upcycled_model_goes_on_combining_gradients(capsys):
    model = sb3_moe.upcycle(make(placement="none", task_gradients="pcgrad"))
    combined = {name: each.combine for name, each in model.policy.task_gradients.items()}
    assert combined == {"pi": pcgrad, "vf": None}
    sb3_moe.describe(model)
    assert "pi: task_gradients='pcgrad'" in capsys.readouterr().out.splitlines()


# Those that no slow version above is of.
WORDS = {
    "SCALE_MOE_LIKE": {"pi.body: top_k router, 16 experts"},
    "BRC_LIKE": {"pi: block='simba', task_embedding=32"},
    "SPHERE": {"pi.big: top_k router, 10 experts", "pi: spectral_coef=0.001"},
}


@pytest.mark.parametrize("name", WORDS)
def test_a_preset_says_what_it_is(name, capsys):
    assert sb3_moe.describe(make(**getattr(presets, name))).total.flops > 0
    assert WORDS[name] <= {*capsys.readouterr().out.splitlines()}


WRONG = [
    ({"combine": "sum2"}, r"`combine` must be one of \['sum', 'orthogonal'\], got 'sum2'"),
    ({"combine": "orthogonal", "num_experts": 9}, "`combine`='orthogonal' needs experts .* got 8"),
    ({"combine": "orthogonal", "match_scale": True}, "`match_scale`=True .* `combine`='sum'; with"),
    ({"block": "resnet"}, r"`block` must be one of \['mlp', 'layer_norm', 'simba'\], got"),
    ({"block": "simba", "match_scale": True}, "`match_scale` must be False with `block`='simba'"),
    ({"block": "simba", "net_arch": [8]}, "`block`='simba' needs a hidden .* experts, .*'middle'"),
    ({"task_gradients": "sum"}, r"`task_gradients` must be one of \['pcgrad'\], got 'sum'"),
    (
        {"task_embedding": 4, "task_input": "router", "router": "embedding"},
        "`task_embedding`=4 needs experts or routers that see it, .* `router`='embedding'",
    ),
]


@pytest.mark.parametrize(("options", "text"), WRONG)
def test_what_does_not_go_together_is_named(options, text):
    with pytest.raises(ValueError, match=text):
        make(**options)


def test_what_an_algorithm_writes_into_a_preset_reaches_no_other_model():
    A2C("MoeMlpPolicy", "CartPole-v1", policy_kwargs=presets.SPHERE, device="cpu")
    model = PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs=presets.SPHERE, device="cpu")
    assert isinstance(model.policy.optimizer, th.optim.Adam)
    preset = presets.SPHERE
    presets.with_policy(preset)["router_kwargs"]["hidden"] = [5]
    assert preset == presets.SPHERE
