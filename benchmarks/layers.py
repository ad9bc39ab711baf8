"""Soft and sparse layers against peers, dense layers, and what the machine's GEMM can do.

Shapes: B batch, N tokens, D features, H hidden, E experts, S slots per expert.
"""

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch as th
from torch import nn

from benchmarks import peers
from benchmarks.timing import Function, Race, bounded, clock_on, paired, ratio, ratios
from sb3_moe import layers as ours

OURS, GELU, GEMM = "SoftMoE", "SoftMoE with GELU", "GEMM ceiling"
GEMM_SIZE = 1024
TOP_K = 2


class Shape(NamedTuple):
    """One point of the table.

    :param B: samples
    :param N: tokens per sample
    :param D: features of a token
    :param H: hidden width of an expert
    :param E: experts
    :param S: slots per expert
    :param at_least: target: how many times faster than soft-moe-pytorch and the loop ours are
    :param ceilings: targets: fractions of the GEMM ceiling, of forward and of forward+backward
    """

    B: int
    N: int
    D: int
    H: int
    E: int
    S: int
    at_least: float = 1.1
    ceilings: tuple[float | None, float | None] = (None, None)

    def __str__(self) -> str:
        return f"{self.B}x{self.N}x{self.D}, H={self.H}, E={self.E}, S={self.S}"

    @property
    def flops(self) -> int:
        """Multiplications and additions of one forward pass."""
        mlp = 2 * 2 * self.D * self.H
        scores = 2 * self.B * self.N * self.D * self.E * self.S
        if self.N == 1:
            return self.B * self.E * mlp + scores
        # Dispatch and combine each cost what the scores cost.
        return self.B * self.E * self.S * mlp + 3 * scores


SHAPES = (
    Shape(8, 1, 64, 64, 8, 1, at_least=3.0),
    Shape(256, 1, 64, 64, 8, 1),
    Shape(256, 1, 256, 256, 8, 1, ceilings=(0.7, 0.7)),
    Shape(8, 64, 16, 64, 4, 16),
    Shape(256, 64, 16, 64, 4, 16),
    Shape(64, 49, 64, 512, 8, 6, ceilings=(0.7, 0.58)),
)

# For ``benchmarks.before``: routers and numbers of experts, all 64 wide, at several batch sizes.
ONE, MANY, WIDTH = "one expert", "top-1 of 64", 64
RACERS = {
    "soft, 8 experts": ("soft", 8),
    ONE: ("top_k", 1),
    "top-1 of 4": ("top_k", 4),
    "top-1 of 16": ("top_k", 16),
    MANY: ("top_k", 64),
    "task, 8 experts": ("task", 8),
}
CASES = {
    f"{rows} rows, {direction}": (rows, direction)
    for rows in (8, 64, 256, 2048)
    for direction in ("forward", "forward+backward")
}


def race(name: str) -> Race:
    """Return the race of our layers in one of ``CASES``; all tasks have equally many rows."""
    rows, direction = CASES[name]
    th.manual_seed(0)
    x_B1D, calls = th.randn(rows, 1, WIDTH, requires_grad=True), {}
    for key, (router, E) in RACERS.items():
        task_B1E = th.eye(E)[th.arange(rows) % E].unsqueeze(1)
        sees = [task_B1E] if router == "task" else []
        calls[key] = DIRECTIONS[direction](make_layer(router, WIDTH, WIDTH, E), x_B1D, *sees)
    return Race(calls, clock=clock_on("cpu"))


def columns(name: str, seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return the columns that compare two codes: microseconds, and the cost of many experts."""
    times = {f"{key}, us": [1e6 * each for each in times] for key, times in seconds.items()}
    return times | {f"{MANY} / {ONE}, time": ratios(seconds[MANY], seconds[ONE])}


def bound(name: str, column: str) -> float | None:
    """Return None: times are only compared with those of the older code."""
    return None


def run(device: str = "cpu", rounds: int = 15) -> list[dict[str, Any]]:
    """Measure every shape, forward alone and with the backward pass.

    :param device: where to run
    :param rounds: interleaved rounds per comparison
    """
    rows, clock = [], clock_on(device)
    for shape in SHAPES:
        layers = make_layers(shape, device)
        x_BND = th.randn(shape.B, shape.N, shape.D, device=device, requires_grad=True)
        for name, time in DIRECTIONS.items():
            calls = {key: time(layer, x_BND) for key, layer in layers.items()}
            calls[GEMM] = gemm(device)
            rows += shape_rows(shape, name, paired(calls, rounds=rounds, clock=clock))
    return rows


def make_layer(
    router: str,
    D: int,
    H: int,
    E: int,
    *,
    num_slots: int = 1,
    top_k: int = 1,
    activation_fn: type[nn.Module] = nn.ReLU,
) -> nn.Module:
    """Return one of our layers; only this function must know the constructors of older versions."""
    networks = [nn.Sequential(nn.Linear(D, H), activation_fn(), nn.Linear(H, D)) for _ in range(E)]
    experts = ours.StackedNetwork(networks)
    sees = ours.RouterInput(features=D, num_experts=E, num_tasks=E)
    # Before 0.2.0, `build` took the arguments that constructors take now.
    kinds = {"task": ours.TaskMoE, "soft": ours.SoftMoE, "top_k": ours.SparseMoE}
    make: Any = getattr(kinds[router], "build", kinds[router])
    options = {"task": {}, "soft": {"num_slots": num_slots}, "top_k": {"top_k": top_k}}
    return make(experts, sees, **options[router])


def make_layers(shape: Shape, device: str) -> dict[str, nn.Module]:
    """Return our layers and their peers by name.

    Experts have a ReLU, as in the papers. Those of soft-moe-pytorch have a GELU, which costs more,
    so it is compared with a layer of ours with a GELU.
    """
    _, N, D, H, E, S = shape[:6]

    soft = make_layer("soft", D, H, E, num_slots=S)
    parameters = sum(p.numel() for p in soft.parameters())
    layers = {
        OURS: soft,
        GELU: make_layer("soft", D, H, E, num_slots=S, activation_fn=nn.GELU),
        "soft-moe-pytorch": peers.soft_moe_pytorch(D, H, E, S, offload=True),
        "soft-moe-pytorch without offloading": peers.soft_moe_pytorch(D, H, E, S, offload=False),
        "ModuleList loop": peers.LoopSoftMoE(D, H, E, S),
        "dense, same parameters": peers.mlp(D, peers.width_for_parameters(D, parameters)),
        "dense, same FLOPs": peers.mlp(D, max(1, shape.flops // (4 * D * shape.B * N))),
        "SparseMoE": make_layer("top_k", D, H, E, top_k=TOP_K),
        "st-moe-pytorch": peers.st_moe_pytorch(D, H, E, TOP_K),
    }
    return {name: layer.to(device) for name, layer in layers.items()}


def shape_rows(
    shape: Shape, direction: str, seconds: dict[str, list[float]]
) -> list[dict[str, Any]]:
    """Return the comparisons of one shape and direction."""

    def row(other: str, ours: str = OURS, at_least: float | None = None) -> dict[str, Any]:
        value = ratio(seconds[other], seconds[ours])
        times = {
            "ours_us": 1e6 * statistics.median(seconds[ours]),
            "theirs_us": 1e6 * statistics.median(seconds[other]),
        }
        return bounded(f"{other} / {ours}, {direction}, {shape}", value, at_least) | times

    passes = 1 if direction == "forward" else 3
    fraction = passes * shape.flops / (2 * GEMM_SIZE**3)
    ceiling = bounded(
        f"{OURS}, fraction of the {GEMM}, {direction}, {shape}",
        fraction * ratio(seconds[GEMM], seconds[OURS]),
        shape.ceilings[passes > 1],
    )
    ceiling["gemm_gflop_per_s"] = 2e-9 * GEMM_SIZE**3 / statistics.median(seconds[GEMM])
    return [
        row("soft-moe-pytorch", ours=GELU, at_least=shape.at_least),
        row("soft-moe-pytorch without offloading", ours=GELU),
        row("ModuleList loop", at_least=shape.at_least),
        row("dense, same parameters"),
        row("dense, same FLOPs"),
        # No target: st-moe-pytorch drops tokens beyond its capacity, and our layers never do.
        row("st-moe-pytorch", ours="SparseMoE"),
        ceiling,
    ]


def forward(layer: nn.Module, x_BND: th.Tensor, *sees: th.Tensor) -> Function:
    def call() -> None:
        with th.no_grad():
            layer(x_BND, *sees)

    return call


def forward_backward(layer: nn.Module, x_BND: th.Tensor, *sees: th.Tensor) -> Function:
    parameters: list[th.Tensor] = [*layer.parameters(), x_BND]
    direction = th.randn_like(x_BND)

    def call() -> None:
        for parameter in parameters:
            parameter.grad = None
        y = layer(x_BND, *sees)
        (y if isinstance(y, th.Tensor) else y[0]).backward(direction)

    return call


DIRECTIONS = {"forward": forward, "forward+backward": forward_backward}


def gemm(device: str) -> Callable[[], th.Tensor]:
    a, b = (th.randn(GEMM_SIZE, GEMM_SIZE, device=device) for _ in range(2))
    return lambda: th.mm(a, b)
