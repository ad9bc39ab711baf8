"""The slow obvious versions of every layer: plain modules and Python loops over everything.

Shapes: B batch, N tokens, E experts, S slots per expert, k choices, I inputs, R router inputs,
O outputs. Each function takes one of our layers and reads its parameters, so that gradients reach
the same tensors.
"""

import math
from collections.abc import Callable, Iterator

import torch as th
from torch import nn
from torch.func import functional_call

from sb3_moe.layers import (
    BeliefMoE,
    EmbeddingMoE,
    ExpertChoiceMoE,
    Experts,
    LinearScores,
    MoELayer,
    SeparateNetworks,
    SoftMoE,
    SparseMoE,
    TaskMoE,
    UniformMoE,
)
from sb3_moe.layers.stacked import (
    StackedBatchNorm,
    StackedConv2d,
    StackedEach,
    StackedLayerNorm,
    StackedLinear,
)
from sb3_moe_envs.belief import BeliefModels, Regression, Scale, Transitions

Function = Callable[[th.Tensor], th.Tensor]


def expert(experts: Experts, k: int, parts: int | None = None) -> Function:
    """Return expert k as plain modules that use slices of the stacked parameters.

    :param parts: leave out some of its parts, counted from the end
    """
    if isinstance(experts, SeparateNetworks):
        return experts.each[k]
    plain = experts.expert(k)
    names = [name for name, _ in plain.named_parameters()]
    tensors = dict(zip(names, _tensors_of(experts, k), strict=True))
    if parts is not None:
        plain = plain[:parts]
        tensors = {name: each for name, each in tensors.items() if name in plain.state_dict()}
    return lambda rows: functional_call(plain, tensors, (rows,))


def _tensors_of(experts: Experts, k: int) -> Iterator[th.Tensor]:
    """Yield expert k's slice of each stacked parameter, in the order of the plain modules."""
    for layer in experts.modules():
        tensors = []
        if isinstance(layer, StackedLinear):
            tensors = [layer.weight_EOI, layer.bias_EO]
        elif isinstance(layer, StackedConv2d):
            tensors = [layer.weight_EOIhw, layer.bias_EO]
        elif isinstance(layer, StackedLayerNorm):
            tensors = [layer.weight_EH, layer.bias_EH]
        elif isinstance(layer, StackedBatchNorm):
            tensors = [each.unflatten(0, (experts.num_experts, -1)) for each in layer.parameters()]
        elif isinstance(layer, StackedEach):
            yield from layer.each[k].parameters()
        yield from (each[k] for each in tensors if each is not None)


def outputs(layer: MoELayer, x_I: th.Tensor) -> list[th.Tensor]:
    """Return all experts' outputs for one row, as they are summed."""
    runs = (expert(layer.experts, k) for k in range(layer.num_experts))
    found = [run(x_I.unsqueeze(0)).squeeze(0) for run in runs]
    return found if layer.experts.combination is None else gram_schmidt(found)


def scores(router: LinearScores | th.nn.Sequential, token_R: th.Tensor) -> list[th.Tensor]:
    """Return the score of each expert or slot for one token."""
    if isinstance(router, th.nn.Sequential):
        for linear in router[:-1:2]:
            token_R = (linear.weight @ token_R + linear.bias).clamp(min=0)
        router = router[-1]
    found = []
    for k, weight_R in enumerate(router.weight_RK.unbind(1)):
        x_R, w_R = token_R, weight_R
        if router.scale is not None:
            x_R = x_R / (x_R.square().sum().sqrt() + 1e-6)
            w_R = w_R / (w_R.square().sum().sqrt() + 1e-6) * router.scale
        score = (x_R * w_R).sum()
        found.append(score if router.bias_K is None else score + router.bias_K[k])
    return found


def softmax(values: list[th.Tensor]) -> list[th.Tensor]:
    total = sum(value.exp() for value in values)
    return [value.exp() / total for value in values]


def soft_moe(layer: SoftMoE, x_BNI: th.Tensor, router_BNR: th.Tensor) -> th.Tensor:
    """Return equations 1 to 3 of arXiv 2308.00951, sample by sample and slot by slot."""
    pairs = zip(x_BNI, router_BNR, strict=True)
    return th.stack([_soft_sample(layer, x_NI, router_NR) for x_NI, router_NR in pairs])


def _soft_sample(layer: SoftMoE, x_NI: th.Tensor, router_NR: th.Tensor) -> th.Tensor:
    logits = [scores(layer.router, token_R) for token_R in router_NR]
    num_tokens, num_slots = len(logits), len(logits[0])
    of_slots = []
    for slot in range(num_slots):
        dispatch = softmax([logits[token][slot] for token in range(num_tokens)])
        mixed_I = sum(dispatch[token] * x_NI[token] for token in range(num_tokens))
        k = slot // layer.num_slots
        if layer.experts.combination is None:
            of_slots.append(expert(layer.experts, k)(mixed_I.unsqueeze(0)).squeeze(0))
        else:
            of_slots.append(outputs(layer, mixed_I)[k])
    rows = []
    for token in range(num_tokens):
        combine = softmax(logits[token])
        rows.append(sum(combine[slot] * of_slots[slot] for slot in range(num_slots)))
    return th.stack(rows)


def sparse_moe(layer: SparseMoE, x_BNI: th.Tensor, router_BNR: th.Tensor) -> th.Tensor:
    """Return the k best experts' outputs times their softmax, token by token."""

    def token(x_I: th.Tensor, router_R: th.Tensor) -> th.Tensor:
        gates = softmax(scores(layer.router, router_R))
        bias = layer.running_bias_E.tolist() if layer.bias_rate else [0.0] * len(gates)
        ranked = sorted(range(len(gates)), key=lambda e: -(gates[e].item() + bias[e]))
        kept, found = ranked[: layer.top_k], outputs(layer, x_I)
        total = sum(gates[e] for e in kept) if layer.renormalize else 1.0
        return sum(gates[e] / total * found[e] for e in kept)

    return _per_token(token, x_BNI, router_BNR)


def task_moe(layer: TaskMoE, x_BNI: th.Tensor, onehot_BNE: th.Tensor) -> th.Tensor:
    """Return the output of the expert that the one-hot names, token by token."""
    return _per_token(
        lambda x_I, onehot_E: outputs(layer, x_I)[onehot_E.tolist().index(1.0)], x_BNI, onehot_BNE
    )


def uniform_moe(layer: UniformMoE, x_BNI: th.Tensor, router_BNR: th.Tensor) -> th.Tensor:
    """Return the mean over experts, token by token."""
    return _per_token(lambda x_I, _: sum(outputs(layer, x_I)) / layer.num_experts, x_BNI, x_BNI)


def embedding_moe(layer: EmbeddingMoE, x_BNI: th.Tensor, onehot_BNK: th.Tensor) -> th.Tensor:
    """Return all experts' outputs times their task's weights, token by token."""

    def token(x_I: th.Tensor, onehot_K: th.Tensor) -> th.Tensor:
        weights_E = layer.task_weights.weight_KW[onehot_K.tolist().index(1.0)]
        if layer.task_weights.bias_W is not None:
            weights_E = weights_E + layer.task_weights.bias_W
        gates = softmax(list(weights_E)) if layer.softmax else list(weights_E)
        return sum(gate * y_O for gate, y_O in zip(gates, outputs(layer, x_I), strict=True))

    return _per_token(token, x_BNI, onehot_BNK)


def belief_moe(layer: BeliefMoE, x_BNI: th.Tensor, belief_BNE: th.Tensor) -> th.Tensor:
    """Return the likeliest experts' outputs times the belief at a temperature, token by token."""

    def token(x_I: th.Tensor, belief_E: th.Tensor) -> th.Tensor:
        gates = [share ** (1 / layer.temperature) for share in belief_E]
        kept = sorted(range(len(gates)), key=lambda k: -gates[k].item())[: layer.top_k]
        is_whole = layer.temperature == 1.0 and layer.top_k is None
        total = 1.0 if is_whole else sum(gates[k] for k in kept)
        found = outputs(layer, x_I)
        return sum(gates[k] / total * found[k] for k in kept)

    return _per_token(token, x_BNI, belief_BNE)


def expert_choice_moe(layer: ExpertChoiceMoE, x_BNI: th.Tensor, router_BNR: th.Tensor) -> th.Tensor:
    """Return, sample by sample, what the tokens get from the experts that chose them."""
    samples = []
    for x_NI, router_NR in zip(x_BNI, router_BNR, strict=True):
        gates = [softmax(scores(layer.router, token_R)) for token_R in router_NR]
        found = [outputs(layer, x_I) for x_I in x_NI]
        capacity = math.ceil(len(gates) * layer.top_k / layer.num_experts)
        rows = [th.zeros_like(found[0][0]) for _ in gates]
        for e in range(layer.num_experts):
            ranked = sorted(range(len(gates)), key=lambda n: -gates[n][e].item())
            for n in ranked[:capacity]:
                rows[n] = rows[n] + gates[n][e] * found[n][e]
        samples.append(th.stack(rows))
    return th.stack(samples)


SLOW = {
    "soft": soft_moe,
    "random": soft_moe,
    "top_k": sparse_moe,
    "expert_choice": expert_choice_moe,
    "task": task_moe,
    "embedding": embedding_moe,
    "belief": belief_moe,
    "uniform": uniform_moe,
}


def _per_token(
    token: Callable[[th.Tensor, th.Tensor], th.Tensor], x_BNI: th.Tensor, router_BNR: th.Tensor
) -> th.Tensor:
    samples = zip(x_BNI, router_BNR, strict=True)
    return th.stack(
        [th.stack([token(x, r) for x, r in zip(*pair, strict=True)]) for pair in samples]
    )


def assert_same(layer: MoELayer, x: th.Tensor, router_x: th.Tensor) -> None:
    """Compare values and the gradients of every parameter and input with the slow version's."""
    x, router_x = x.detach().requires_grad_(), router_x.detach().requires_grad_()
    tensors = [*layer.parameters(), x, router_x]
    # A sample of one token, (B, I), has an axis of tokens in the slow version.
    x_BNI, router_BNR = (each if each.dim() == 3 else each.unsqueeze(1) for each in (x, router_x))
    # The slow one first: in training, a layer's pass moves a bias for the next one.
    slow_y = SLOW[layer.name](layer, x_BNI, router_BNR)
    fast_y = layer(x, router_x)[0]
    slow_y = slow_y.view(fast_y.shape)
    th.testing.assert_close(fast_y, slow_y)
    th.testing.assert_close(gradients(fast_y, tensors), gradients(slow_y, tensors))


def gradients(y: th.Tensor, tensors: list[th.Tensor]) -> list[th.Tensor]:
    """Return the gradients of a fixed random projection of ``y``; zeros where there is none."""
    direction = th.randn(y.shape, generator=th.Generator().manual_seed(0), dtype=y.dtype)
    found = th.autograd.grad((y * direction).sum(), tensors, allow_unused=True, retain_graph=True)
    return [
        th.zeros_like(t) if grad is None else grad for t, grad in zip(tensors, found, strict=True)
    ]


class OwnOptimizers:
    """Copies of experts, each with an optimizer of its own that steps when the expert is active.

    :param experts: whose gradients are taken
    :param make: builds an optimizer for some tensors
    """

    def __init__(self, experts: Experts, make: Callable[[list[th.Tensor]], th.optim.Optimizer]):
        self.experts = experts
        own = [list(self._views(k)) for k in range(experts.num_experts)]
        self.copies = [[view.detach().clone().requires_grad_() for view, _ in e] for e in own]
        self.optimizers = [make(each) for each in self.copies]

    def _views(self, k: int) -> Iterator[tuple[th.Tensor, th.Tensor | None]]:
        for parameter, first, n in self.experts.shares():
            if first <= k < first + n and isinstance(parameter, th.nn.Parameter):
                gradient = parameter.grad
                yield (
                    parameter.unflatten(0, (n, -1))[k - first],
                    None if gradient is None else gradient.unflatten(0, (n, -1))[k - first],
                )

    def step(self, active: set[int]) -> None:
        for k in active:
            for copy, (_, gradient) in zip(self.copies[k], self._views(k), strict=True):
                copy.grad = gradient
            self.optimizers[k].step()

    def pairs(self) -> Iterator[tuple[th.Tensor, th.Tensor]]:
        """Yield each tensor of each expert, and what it is to be."""
        for k, copies in enumerate(self.copies):
            for (view, _), copy in zip(self._views(k), copies, strict=True):
                yield view, copy


def gradient_scores(gradient_EOI: th.Tensor) -> list[list[float]]:
    """Return each unit's mean absolute gradient over the layer's mean, weight by weight."""
    sizes = [
        [sum(abs(float(g)) for g in row.flatten()) / row.numel() for row in gradient_OI]
        for gradient_OI in gradient_EOI
    ]
    every = [size for row in sizes for size in row]
    mean = sum(every) / len(every)
    return [[size / mean for size in row] for row in sizes]


def weight_penalty(weights: list[th.Tensor], anchors: list[th.Tensor], coef: float) -> th.Tensor:
    """Return half the coefficient times the squared distance, as it would stand in a loss."""
    pairs = zip(weights, anchors, strict=True)
    return coef / 2 * sum((weight - anchor).square().sum() for weight, anchor in pairs)


def spectral_penalty(phi_TD: th.Tensor) -> th.Tensor:
    """Return |A|^2 - tr(A)^2 / D, entry by entry of A."""
    rows, width = phi_TD.shape
    squares, trace = 0.0, 0.0
    for i in range(width):
        for j in range(width):
            entry = (phi_TD[:, i] * phi_TD[:, j]).sum() / rows
            squares = squares + entry**2
            trace = trace + (entry if i == j else 0.0)
    return squares - trace**2 / width


def gated_features(layer: MoELayer, x: th.Tensor, gates_BNE: th.Tensor) -> th.Tensor:
    """Return what the last layer of each expert reads times its gate, token by token: (T, D)."""
    rows = []
    for x_I, gates_E in zip(x.flatten(0, -2), gates_BNE.flatten(0, 1), strict=True):
        parts = [
            gates_E[k] * expert(layer.experts, k, parts=-1)(x_I.unsqueeze(0)).squeeze(0)
            for k in range(layer.num_experts)
        ]
        rows.append(th.cat(parts))
    return th.stack(rows)


def gram_schmidt(vectors: list[th.Tensor]) -> list[th.Tensor]:
    """Return what is left of each vector beside those before it, at length 1."""
    found: list[th.Tensor] = []
    for vector in vectors:
        left = vector - sum((vector @ unit) * unit for unit in found)
        found.append(left / left.square().sum().sqrt())
    return found


def paco(layers: list[MoELayer], x_I: th.Tensor, task: int, act: Function) -> th.Tensor:
    """Return what a dense network returns whose every parameter is its task's weighted sum."""
    weights = layers[0].task_weights.rows_KW[task]
    for i, layer in enumerate(layers):
        last = layer.experts.last
        weight = sum(w * each for w, each in zip(weights, last.weight_EOI, strict=True))
        bias = sum(w * each for w, each in zip(weights, last.bias_EO, strict=True))
        x_I = weight @ x_I + bias
        x_I = act(x_I) if i + 1 < len(layers) else x_I
    return x_I


def layer_norm(x_I: th.Tensor, norm: nn.LayerNorm) -> th.Tensor:
    """Return a row with mean 0 and variance 1, scaled and shifted."""
    variance = (x_I - x_I.mean()).square().mean()
    return (x_I - x_I.mean()) / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def simba(layers: list[nn.Module], x_I: th.Tensor) -> th.Tensor:
    """Return SimBa's output for one row: x + W2 relu(W1 LN(x)) for every block."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            x_I = layer.weight @ x_I + layer.bias
        elif isinstance(layer, nn.LayerNorm):
            x_I = layer_norm(x_I, layer)
        else:
            norm, first, _, second = layer.block
            inside = (first.weight @ layer_norm(x_I, norm) + first.bias).clamp(min=0)
            x_I = x_I + second.weight @ inside + second.bias
    return x_I


def belief(models: BeliefModels, episode: Transitions, start: list[float]) -> list[list[float]]:
    """Return the belief after each transition of an episode, number by number.

    :param models: whose weights, scales and variances are used
    :param episode: the transitions in order
    :param start: the logarithms of the belief with which it begins
    """
    log_belief, found = start, []
    for obs, action, reward, after in zip(*(each.tolist() for each in episode), strict=True):
        change = [b - a for a, b in zip(obs, after, strict=True)]
        tasks = {
            "transition": ([*obs, *action], change),
            "reward": ([*obs, *action, *after], reward),
        }
        joint = []
        for k in range(models.num_models):
            total = models.memory * log_belief[k]
            for name, regression in models.regressions.items():
                total += _log_normal(regression, k, *tasks[name])
            joint.append(total)
        evidence = math.log(sum(math.exp(each) for each in joint))
        log_belief = [each - evidence for each in joint]
        found.append([math.exp(each) for each in log_belief])
    return found


def _log_normal(regression: Regression, k: int, inputs: list[float], targets: list[float]) -> float:
    """Return the log-density of standardized targets under model k."""

    def standardized(values: list[float], scale: Scale) -> list[float]:
        columns = zip(values, scale.mean, scale.divisor, strict=True)
        return [(value - mean) / deviation for value, mean, deviation in columns]

    x = standardized(inputs, regression.input_scale)
    for i, weight in enumerate(regression.weights):
        *rows, bias = weight[k].tolist()
        x = x if i == 0 else [math.tanh(value) for value in x]
        x = [
            bias[o] + sum(row[o] * value for row, value in zip(rows, x, strict=True))
            for o in range(len(bias))
        ]
    total = 0.0
    wanted = standardized(targets, regression.target_scale)
    for o, (y, target) in enumerate(zip(x, wanted, strict=True)):
        variance = math.exp(regression.log_variance_O[o]) + regression.min_variance
        total -= ((y - target) ** 2 / variance + math.log(2 * math.pi * variance)) / 2
    return total


def pcgrad(gradients: list[th.Tensor], orders: list[list[int]]) -> th.Tensor:
    """Follow algorithm 1 of PCGrad (arXiv 2001.06782), given the order for each task."""
    total = th.zeros_like(gradients[0])
    for i, order in enumerate(orders):
        own = gradients[i].clone()
        for j in order:
            product = own @ gradients[j]
            if j != i and product < 0:
                own -= product / (gradients[j] @ gradients[j]) * gradients[j]
        total += own
    return total
