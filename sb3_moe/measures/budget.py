"""The parameters and FLOPs of a policy, part by part, and its matched baseline.

Torch counts the FLOPs of dense parts. Those of mixtures are computed from shapes: they are those
that the routing requires of the experts, however the layer computes its output.

Shapes: B samples, N tokens of each, E experts, I features of a token.
"""

import math
import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import torch as th
from gymnasium.vector.utils import create_empty_array
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel
from torch import Tensor, nn

from sb3_moe.layers import ExpertChoiceMoE, MoELayer, Routing, SoftMoE
from sb3_moe.layers.checks import one_of
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.policies.masks import alive_in
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import Networks, kind_of, networks_of
from sb3_moe.policies.of_model import policy_of
from sb3_moe.policies.options import DEFAULTS, OF_EXPERTS


class Cost(NamedTuple):
    """What one network, or one features extractor, costs.

    :param parameters: how many parameters it has; in a sparse network those that are alive
    :param active: how many of these a token uses: those of the chosen experts, and all that belong
        to no expert
    :param flops: multiplications and additions of one forward pass of one sample; those with the
        zeros of a sparse network count too, since they are computed
    """

    parameters: int
    active: int
    flops: int


@dataclass(frozen=True)
class Budget:
    """A policy's cost by part, without target networks.

    :param parts: cost by name: ``"features"`` (all features extractors), each network's name, and
        ``"lstm"`` (or ``"other"``) for the rest
    """

    parts: dict[str, Cost]

    @property
    def total(self) -> Cost:
        """The whole policy: one forward pass through all of its online networks."""
        return Cost(*map(sum, zip(*self.parts.values(), strict=True)))

    def __str__(self) -> str:
        lines = [f"{'':<10}{'parameters':>12}{'active':>12}{'FLOPs/sample':>14}"]
        for name, (parameters, active, flops) in {**self.parts, "total": self.total}.items():
            lines.append(f"{name:<10}{parameters:>12,}{active:>12,}{flops:>14,}")
        return "\n".join(lines)


# Options that :func:`describe` prints where they differ from their defaults.
NOTED = ("combine", "block", "task_embedding", "tokens", "spectral_coef", "task_gradients")


class Described(Budget):
    """A budget that was printed already, so that a notebook doesn't show it again."""

    def _ipython_display_(self) -> None:
        """Show nothing."""


def describe(model: BaseAlgorithm | BaseModel) -> Budget:
    """Print what a model's policy is made of and what it costs, and return the costs.

    In a notebook the costs are shown only once, even if the call is the last line of a cell.

    >>> from stable_baselines3 import PPO
    >>> costs = describe(PPO("MoeMlpPolicy", "CartPole-v1", policy_kwargs={"num_experts": 2}))
    pi.middle: soft router, 2 experts
    vf.middle: soft router, 2 experts
                parameters      active  FLOPs/sample
    pi              17,218      17,218        33,792
    vf              17,153      17,153        33,664
    total           34,371      34,371        67,456

    :param model: an SB3 model, or the policy of one
    :raises TypeError: if the policy is not one of this package's
    """
    policy = policy_of(model)
    budget = Described(measure(policy).parts)
    for name, layer in policy.moe_layers().items():
        print(f"{name}: {layer.name} router, {layer.num_experts} experts")
    for network, options in policy.moe.items():
        values = {name: getattr(options, name) for name in NOTED}
        changed = [f"{name}={each!r}" for name, each in values.items() if each != DEFAULTS[name]]
        if changed:
            print(f"{network}: {', '.join(changed)}")
    if alive := _alive(networks_of(policy)):
        masked = sum(parameter.numel() for parameter in alive)
        print(f"sparse: {sum(alive.values()):,} of {masked:,} weights are alive")
    print(budget)
    return budget


def measure(policy: BaseModel) -> Budget:
    """Count the parameters of a policy's online networks, each once, and the FLOPs of one sample.

    :param policy: of any algorithm, ours or SB3's own
    """
    networks = networks_of(policy)
    obs, _ = networks.policy.obs_to_tensor(create_empty_array(policy.observation_space))
    by_name = networks.modules()
    rest = "lstm" if networks.memories() else "other"
    parts = networks.parts()
    places = dict(zip(by_name, by_name, strict=True))
    # A Gaussian's log_std belongs to the actor, which is the first network.
    places = dict.fromkeys(networks.loose(), next(iter(by_name))) | places
    places |= dict.fromkeys(networks.extractors(), "features")
    modules = [each for part in parts.values() for each in part if isinstance(each, nn.Module)]
    with th.no_grad(), evaluating(policy), counting(policy, modules) as count:
        networks.run(obs)
    # FLOPs of a shared module count in every part that has it, its parameters only in the first.
    flops = Counter({rest: count.outside})
    for name, part in parts.items():
        flops[places.get(name, rest)] += sum(count.by_part.get(each, 0) for each in part)
    used: dict[Any, Any] = {}
    for layer, share in count.share.items():
        used |= dict.fromkeys(layer.experts.parameters(), share)
    alive = _alive(networks)
    numbers = Counter[str]()
    active = Counter[str]()
    for parameter, name in networks.owners().items():
        if isinstance(parameter, nn.Parameter):
            number = alive.get(parameter, parameter.numel())
            place = places.get(name, rest)
            numbers[place] += number
            active[place] += number * used.get(parameter, 1)
    found = {
        name: Cost(numbers[name], round(active[name]), flops[name])
        for name in ("features", rest, *by_name)
    }
    return Budget({name: each for name, each in found.items() if name in by_name or any(each)})


def _alive(networks: Networks) -> dict[Tensor, int]:
    """Return how many weights of each masked parameter are alive."""
    optimizers = networks.every_optimizer()
    return {p: number for each in optimizers for p, number in alive_in(each).items()}


def matching_net_arch(
    policy_class: type[MoEPolicy],
    observation_space: gym.Space,
    action_space: gym.Space,
    policy_kwargs: dict[str, Any],
    match: str = "parameters",
) -> dict[str, list[int]] | list[int]:
    """Return the ``net_arch`` of the matched baseline, the dense policy that costs the same.

    All hidden widths of a network are scaled together, until its count comes as close as possible
    to that of the MoE policy's network. A network's count is that of its own layers (for critics,
    of all critics together) and an equal share of the features extractors and LSTMs. If the
    features extractor alone costs more than the MoE policy, as SB3's NatureCNN can, all widths are
    1; name an ``encoder`` in ``features_extractor_kwargs`` to give both policies the same one.

    :param policy_class: one of this package's policies
    :param observation_space: observation space
    :param action_space: action space
    :param policy_kwargs: the MoE policy's
    :param match: ``"parameters"`` or ``"flops"``
    :return: as the policy takes it: one list for a policy with one network, else a dict by network
    :raises ValueError: if ``match`` is neither, or a network has no hidden layer to widen
    """
    one_of("match", match, ("parameters", "flops"))
    dense = _dense_kwargs(policy_kwargs)

    def build(**kwargs: Any) -> MoEPolicy:
        return policy_class(observation_space, action_space, lambda _: 1e-3, **kwargs)

    moe = build(**policy_kwargs | {"frozen_experts": None})
    given: Any = moe.net_arch
    arch = {
        name: list(given.get(name, []) if isinstance(given, dict) else given)
        for name in moe.network_names
    }
    wanted = _count_by_network(moe, match)

    def widened(name: str) -> list[int]:
        widths = arch[name]
        if not widths:
            raise ValueError(f"`net_arch` of {name!r} must have a hidden layer to widen, got []")

        def scaled(largest: int) -> list[int]:
            return [max(1, round(width * largest / max(widths))) for width in widths]

        def excess(largest: int) -> float:
            net_arch = _as_given(arch | {name: scaled(largest)})
            policy = build(**dense | {"net_arch": net_arch})
            return _count_by_network(policy, match)[name] - wanted[name]

        enough = max(widths)
        while excess(enough) < 0:
            enough *= 2
        above = bisect_left(range(enough), 0.0, lo=1, key=excess)
        around = {max(above - 1, 1), above}
        return scaled(min(around, key=lambda largest: abs(excess(largest))))

    for name in moe.network_names:
        arch[name] = widened(name)
    return _as_given(arch)


def _dense_kwargs(policy_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the dense policy that sees the same."""
    # Frozen experts cost as much as others, and a dense policy has none to freeze.
    dense = {name: each for name, each in policy_kwargs.items() if name not in OF_EXPERTS}
    dense |= {"placement": "none", "head_router": None, "frozen_experts": None}
    dense.pop("popart", None)  # needs heads, and has no parameters
    dense["task_input"] = _as_dense_sees(policy_kwargs.get("task_input", "both"))
    return dense


def _as_given(arch: dict[str, list[int]]) -> dict[str, list[int]] | list[int]:
    return next(iter(arch.values())) if len(arch) == 1 else arch


def _as_dense_sees(task_input: Any) -> Any:
    """Let a dense network see the task id where only a router does, or it would be no control."""
    if isinstance(task_input, Mapping):
        return {network: _as_dense_sees(each) for network, each in task_input.items()}
    return "both" if task_input == "router" else task_input


def _count_by_network(policy: MoEPolicy, match: str) -> dict[str, float]:
    """Return each network's count, for all critics together, with its share of common parts."""
    counts = {name: getattr(cost, match) for name, cost in measure(policy).parts.items()}
    own = dict.fromkeys(policy.network_names, 0)
    for name in networks_of(policy).modules():
        own[kind_of(name)] += counts[name]
    share = (sum(counts.values()) - sum(own.values())) / len(own)
    return {name: number + share for name, number in own.items()}


# Torch's layers whose matrix products torch doesn't count.
UNCOUNTED = (nn.Bilinear, nn.MultiheadAttention)


class FlopCount:
    """The FLOPs that run in a network while :func:`counting` them.

    :ivar by_part: FLOPs of each part in its last run alone, because SB3's methods run an extractor
        once for each network that reads it
    :ivar share: share of the experts that a token uses, by mixture
    :param parts: modules that are counted separately
    """

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        self.by_part: dict[Any, int] = dict.fromkeys(parts, 0)
        self.share: dict[MoELayer, float] = {}
        self.mode = _flop_counter()
        # For each module that runs now, the innermost last: torch's count when it began, torch's
        # count of the modules inside it that have ended, and the FLOPs that count for these.
        self._running = [[0, 0, 0]]

    @property
    def outside(self) -> int:
        """FLOPs that ran in no part."""
        return self.mode.get_total_flops() - self._running[0][1]

    def begin(self, module: nn.Module, args: Any) -> None:
        """Note that a module starts."""
        self._running.append([self.mode.get_total_flops(), 0, 0])

    def end(self, module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        """Note the FLOPs of a module that ends."""
        start, done, inside = self._running.pop()
        own = self.mode.get_total_flops() - start - done
        if isinstance(module, MoELayer):
            own = mixture_flops(module, args[0], output[1])
            self.share[module] = _num_chosen(module, output[1]) / module.num_experts
        elif isinstance(module, nn.RNNBase):
            # Torch doesn't count a recurrent layer where it is one operation.
            weights = sum(p.numel() for n, p in module.named_parameters() if "weight" in n)
            own = 2 * weights * args[0][..., 0].numel()
        if module in self.by_part:
            self.by_part[module] = own + inside
        outer = self._running[-1]
        outer[1] += self.mode.get_total_flops() - start
        outer[2] += own + inside


@contextmanager
def counting(module: nn.Module, parts: Iterable[nn.Module] = ()) -> Iterator[FlopCount]:
    """Count the FLOPs of a module while the ``with`` block runs.

    :param module: a policy, or a part of one
    :param parts: modules in it that are counted separately
    """
    count = FlopCount(parts)
    watched = {*count.by_part}
    for each in module.modules():
        if isinstance(each, MoELayer):
            watched |= {each, *each.children()} - {each.experts}
        elif isinstance(each, nn.RNNBase):
            watched.add(each)
        elif isinstance(each, UNCOUNTED):
            name = type(each).__name__
            warnings.warn(f"FLOPs of {name} count as 0: a network with it has more", stacklevel=3)
    handles = [each.register_forward_pre_hook(count.begin) for each in watched]
    handles += [each.register_forward_hook(count.end) for each in watched]
    try:
        # Hooks can't look into compiled code, so it runs eagerly. Torch warns that the global hooks
        # of its counter fire twice on a compiled module.
        with warnings.catch_warnings(), th.compiler.set_stance("force_eager"), count.mode:
            warnings.filterwarnings("ignore", "Using `torch.compile")
            yield count
    finally:
        for handle in handles:
            handle.remove()


def _flop_counter() -> Any:
    # Imported late: in a torch for GPUs it loads triton, which takes half of `import sb3_moe`.
    from torch.utils.flop_counter import FlopCounterMode

    return FlopCounterMode(display=False)


def mixture_flops(layer: MoELayer, x: Tensor, routing: Routing) -> int:
    """Return the FLOPs of a mixture for a batch, without its router's modules.

    :param layer: of any router
    :param x: what its experts see, (B, I) or (B, N, I)
    :param routing: what the layer decided
    """
    batch, *tokens, width = x.shape
    num_tokens = math.prod(tokens)
    experts = layer.num_experts
    out_features = layer.experts.out_features
    rows = _rows(layer, num_tokens, routing)
    with _flop_counter() as mode:
        layer.experts.expert(0)(x.new_zeros(1, width))
    flops = rows * mode.get_total_flops()
    if isinstance(layer, SoftMoE) and num_tokens > 1:  # tokens into slots, and back
        flops += 2 * num_tokens * rows * (width + out_features)
    if layer.experts.combination is not None:  # Gram-Schmidt: two products a pair, a norm for each
        flops += num_tokens * (2 * experts * (experts - 1) + 3 * experts) * out_features
    return batch * flops


def _num_chosen(layer: MoELayer, routing: Routing) -> int:
    """Return how many experts serve a token, on average."""
    if isinstance(layer, ExpertChoiceMoE):
        return layer.top_k
    chosen = routing.experts_BNk
    return layer.num_experts if chosen is None else chosen.shape[-1]


def _rows(layer: MoELayer, num_tokens: int, routing: Routing) -> int:
    """Return on how many rows all experts together run for one sample."""
    if isinstance(layer, SoftMoE):
        # With one token every slot holds that token, and each expert runs once.
        return layer.num_experts * (layer.num_slots if num_tokens > 1 else 1)
    if isinstance(layer, ExpertChoiceMoE):
        return layer.num_experts * layer.capacity(num_tokens)
    return num_tokens * _num_chosen(layer, routing)
