"""Where the time of training goes with experts, and with a dense policy of as many parameters.

First by part of the loop: the processor's time inside methods of SB3 and the policy, in interleaved
rounds. Then by kind of operator, as torch's profiler sees it. The rest of a step is spent between
operators (Python, torch's dispatch and autograd, numpy, the environments).
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import stable_baselines3 as sb3
import torch as th
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from torch.profiler import ProfilerActivity, profile

from benchmarks.layers import OURS, SHAPES, forward_backward, make_layers
from benchmarks.stopwatch import Stopwatch, Timed
from benchmarks.timing import bounded, clock_on, paired
from benchmarks.training import CASES, turn

HOW = (
    "Microseconds of one thread's time, and calls, per environment step, or per pass of a layer; "
    "`ratio` is the mixture's time over that of a dense network of as many parameters. Parts: "
    "medians over interleaved rounds in one run. Operators: the quickest of each at each size, "
    "without what it calls, times its calls."
)
BETWEEN = "between operators"

OTHERS = "other operators"
# torch's names, without "aten::" and the underscore of operators in place.
KINDS: dict[str, tuple[str, ...]] = {
    "GEMMs": ("mm", "addmm", "bmm", "baddbmm"),
    "activations": ("tanh", "tanh_backward", "relu", "threshold_backward", "clamp_min"),
    "softmax, sums, products": (
        *("_softmax", "_softmax_backward_data", "logsumexp"),
        *("mul", "add", "sum", "sub", "div", "mean"),
    ),
    "Adam's kernel, norms": ("_fused_adam", "linalg_vector_norm", "_foreach_norm", "_foreach_mul"),
    OTHERS: (),
}


def run(rounds: int = 7) -> list[dict[str, Any]]:
    """Profile each algorithm with both policies.

    :param rounds: interleaved turns of each
    """
    return [row for name in CASES for row in profiled(name, rounds)] + one_token(rounds)


def profiled(name: str, rounds: int) -> list[dict[str, Any]]:
    """Return a row for each part of one algorithm's loop, and for each kind of operator.

    :param name: of a case of ``benchmarks.training``
    :param rounds: turns of each policy
    """
    case = CASES[name]
    steps, trained = case.steps, case.models()
    models = {"ours": trained["mixture"], "dense": trained["dense"]}
    for model in models.values():
        turn(model, steps)()
    parts = in_parts(models, steps, rounds)
    kinds = {}
    for k, model in models.items():
        parts[k]["all"] = (sum(us for us, _ in parts[k].values()), 0.0)
        kinds[k] = by_kind(turn(model, steps), steps, parts[k]["all"][0])
    found = [row(f"{name}, {part}", part, parts) for part in parts["ours"]]
    return found + [row(f"{name}, operators: {kind}", kind, kinds) for kind in kinds["ours"]]


def one_token(rounds: int, passes: int = 100) -> list[dict[str, Any]]:
    """Return rows for the smallest layer of the table of layers, forward and backward.

    :param rounds: interleaved turns of each layer
    :param passes: of a turn
    """
    shape = SHAPES[0]
    layers = make_layers(shape, "cpu")
    x_B1D = th.randn(shape.B, 1, shape.D, requires_grad=True)
    both = {"ours": layers[OURS], "dense": layers["dense, same parameters"]}
    calls = {k: forward_backward(layer, x_B1D) for k, layer in both.items()}

    def turn_of(call: Callable[[], object]) -> Callable[[], object]:
        return lambda: [call() for _ in range(passes)]

    turns = {k: turn_of(call) for k, call in calls.items()}
    seconds = paired(turns, rounds=rounds, slice_s=0.0, clock=clock_on("cpu"))
    total = {k: statistics.median(each) / passes * 1e6 for k, each in seconds.items()}
    kinds = {k: by_kind(turns[k], passes, total[k]) for k in turns}
    name = f"a layer's forward and backward, {shape}"
    found = [row(f"{name}, all", "all", {k: {"all": (us, 0.0)} for k, us in total.items()})]
    # Some kinds don't occur, such as the optimizer's.
    met = [kind for kind in kinds["ours"] if kinds["ours"][kind] != (0.0, 0.0)]
    return found + [row(f"{name}, operators: {kind}", kind, kinds) for kind in met]


def row(
    name: str, key: str, found: Mapping[str, Mapping[str, tuple[float, float]]]
) -> dict[str, Any]:
    """Return a row of the table: microseconds and calls per step of both policies.

    :param name: of the row
    :param key: of what was measured
    :param found: microseconds and calls of each policy, by what was measured
    """
    (ours, our_calls), (dense, dense_calls) = found["ours"][key], found["dense"][key]
    return bounded(name, ours / dense) | {
        "dense_us": dense,
        "ours_us": ours,
        "more_us": ours - dense,
        "dense_calls": dense_calls,
        "our_calls": our_calls,
    }


def in_parts(
    models: Mapping[str, BaseAlgorithm], steps: int, rounds: int
) -> dict[str, dict[str, tuple[float, float]]]:
    """Return each model's microseconds and calls per step, by part of the loop."""
    seen: dict[str, list[Stopwatch]] = {name: [] for name in models}
    for index in range(rounds):
        for name in list(models)[:: 1 if index % 2 == 0 else -1]:
            watch = Stopwatch()
            with watch.on(parts_of(models[name])):
                turn(models[name], steps)()
            seen[name].append(watch)
    return {
        name: {
            part: (
                statistics.median(each.seconds[part] for each in watches) / steps * 1e6,
                statistics.mean(each.calls[part] for each in watches) / steps,
            )
            for part in watches[0].seconds
        }
        for name, watches in seen.items()
    }


def by_kind(
    call: Callable[[], object], units: int, total_us: float
) -> dict[str, tuple[float, float]]:
    """Return microseconds and calls per unit of each kind of operator, and between them.

    Each call of an operator counts as much as its fastest call with inputs of the same shapes: the
    others may have been interrupted.

    :param call: what is profiled
    :param units: how many steps or passes it makes
    :param total_us: microseconds that one of these takes without the profiler
    """
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        call()
    times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for event in profiler.events() or ():
        if event.name.startswith("aten::"):
            key = (event.name.removeprefix("aten::"), str(event.input_shapes))
            times[key].append(event.self_cpu_time_total)
    found = dict.fromkeys(KINDS, (0.0, 0.0))
    for (name, _), each in times.items():
        kind = kind_of(name)
        us, calls = found[kind]
        us += min(each) * len(each) / units
        found[kind] = (us, calls + len(each) / units)
    found[BETWEEN] = (total_us - sum(us for us, _ in found.values()), 0.0)
    return found


def kind_of(operator: str) -> str:
    """Return the kind of an operator, by its name without ``aten::``."""
    name = operator.rstrip("_")
    return next((kind for kind, names in KINDS.items() if name in names), OTHERS)


def parts_of(model: Any) -> dict[str, Sequence[Timed]]:
    """Return the methods that are timed for a model, by part of the loop."""
    parts: dict[str, Sequence[Timed]] = {"world": [(model.env, "step")]}
    if isinstance(model, PPO):
        buffer, optimizers = model.rollout_buffer, [model.policy.optimizer]
        parts["choosing actions"] = [(model.policy, "forward"), (model.policy, "predict_values")]
        parts["networks in updates"] = [(model.policy, "evaluate_actions")]
        reads = ["add", "compute_returns_and_advantage", "_get_samples"]
    else:
        buffer, reads = model.replay_buffer, ["add", "sample"]
        parts["choosing actions"] = [(model.policy, "predict")]
        if isinstance(model, DQN):
            optimizers, networks = [model.policy.optimizer], [model.q_net, model.q_net_target]
            parts["networks in updates"] = [(each, "forward") for each in networks]
        else:
            optimizers = [model.actor.optimizer, model.critic.optimizer, model.ent_coef_optimizer]
            networks = [model.critic, model.critic_target]
            parts["networks in updates"] = [(each, "forward") for each in networks]
            parts["networks in updates"] += [(model.actor, "action_log_prob")]
            parts["target networks"] = [(sb3.sac.sac, "polyak_update")]
    parts["backward pass"] = [(th.Tensor, "backward")]
    parts["optimizer"] = [(each, name) for each in optimizers for name in ("step", "zero_grad")]
    parts["optimizer"] += [(th.nn.utils, "clip_grad_norm_")]
    parts["buffer"] = [(buffer, name) for name in reads]
    return parts
