"""How time and memory grow with experts, tasks, environments, tokens and width.

``python -m benchmarks --only growth`` measures, fits and draws. For experts, tokens and width, a
layer runs forward and backward. For tasks, the environments of all tasks make a step, and a policy
with an expert for each task makes an update. For environments, they make a step, and a policy
chooses their actions.
"""

import ctypes
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch as th
from stable_baselines3 import PPO

import sb3_moe
from benchmarks.layers import forward_backward, make_layer
from benchmarks.timing import Function, paired
from sb3_moe_envs.conflicts import conflicting_cartpoles

HOW = (
    "Each point is the median of the processor's time over interleaved rounds; peak memory is what "
    "a process of its own takes for one more of that size. `ratio` is the last point's time over "
    "the first's. Time grows as the size to the power of the exponent: fitted to all points, and "
    "of the last two, where what each call costs by itself counts least."
)

EXPERTS = (1, 4, 16, 64, 256)
TASKS = (1, 2, 5, 10, 20, 50)
COPIES = (8, 32, 128, 512, 1024)
TOKENS = (1, 4, 16, 49, 100)
WIDTH = (16, 32, 64, 128, 256, 512)
# An option of glibc's mallopt, and its value in bytes.
M_MMAP_THRESHOLD, LARGE = -3, 1 << 15
# Environments that the tasks share, and observations in an update.
SHARED, ROWS = 100, 256


class Series(NamedTuple):
    """What is made larger, and how to build the function to time for each size.

    :param axis: what grows
    :param name: what is timed
    :param sizes: in rising order
    :param make: from a size to a function to time
    """

    axis: str
    name: str
    sizes: tuple[int, ...]
    make: Callable[[int], Function]


def series() -> Iterator[Series]:
    """Return all that is measured."""
    for name, layer in (("SoftMoE", soft), ("SparseMoE, top 1", top_1)):
        yield Series("experts", name, EXPERTS, lambda n, layer=layer: layer(256, 1, 64, n))
        yield Series("tokens", name, TOKENS, lambda n, layer=layer: layer(64, n, 64, 8))
        yield Series("width", name, WIDTH, lambda n, layer=layer: layer(256, 1, n, 4))
    yield Series("tasks", "a step of 100 environments", TASKS, step_of_tasks)
    yield Series("tasks", "an update, an expert for each task", TASKS, update_of_tasks)
    yield Series("environments", "a step of 4 tasks", COPIES, step_of_copies)
    yield Series("environments", "choosing actions, 4 experts", COPIES, actions_of_copies)


def soft(rows: int, tokens: int, width: int, experts: int) -> Function:
    """Return forward and backward of a soft mixture, with 2 slots per expert for several tokens."""
    layer = make_layer("soft", width, width, experts, num_slots=min(tokens, 2))
    return forward_backward(layer, th.randn(rows, tokens, width, requires_grad=True))


def top_1(rows: int, tokens: int, width: int, experts: int) -> Function:
    """Return forward and backward of a mixture that sends every token to one expert."""
    layer = make_layer("top_k", width, width, experts)
    return forward_backward(layer, th.randn(rows, tokens, width, requires_grad=True))


def world(num_tasks: int, copies: int) -> Any:
    """Return an environment of CartPoles, no two of which have the same best policy."""
    return sb3_moe.make_multitask_vec_env(conflicting_cartpoles(num_tasks), copies, seed=0)


def step_of_tasks(num_tasks: int) -> Function:
    """Return a step of a fixed number of environments that the tasks share."""
    return random_steps(world(num_tasks, SHARED))


def step_of_copies(copies: int) -> Function:
    """Return a step of a number of environments of four tasks."""
    return random_steps(world(4, copies))


def random_steps(env: Any) -> Function:
    """Return a step with random actions, the same in each call."""
    env.reset()
    actions = np.random.default_rng(0).integers(2, size=env.num_envs)
    return lambda: env.step(actions)


def update_of_tasks(num_tasks: int) -> Function:
    """Return forward and backward of a policy with an expert for each task."""
    policy, obs = policy_and_obs(num_tasks, ROWS, router="task", num_experts=num_tasks)
    actions = th.zeros(ROWS, dtype=th.long)

    def update() -> None:
        policy.zero_grad()
        values, log_prob, _ = policy.evaluate_actions(obs, actions)
        (values.mean() + log_prob.mean()).backward()

    return update


def actions_of_copies(copies: int) -> Function:
    """Return the choice of actions by a policy of four experts for a number of environments."""
    policy, obs = policy_and_obs(4, copies, router="soft", num_experts=4)
    return th.no_grad()(lambda: policy(obs))


def policy_and_obs(num_tasks: int, rows: int, **experts: Any) -> tuple[Any, Any]:
    """Return a policy over tasks, and observations of the tasks in turn."""
    policy_kwargs = {"placement": "middle", **experts}
    env = world(num_tasks, num_tasks)
    model = PPO("MoeMultiInputPolicy", env, policy_kwargs=policy_kwargs, device="cpu")
    tasks = th.arange(rows) % num_tasks
    return model.policy, {"obs": th.randn(rows, 4), "task_id": tasks}


def run(rounds: int = 5) -> list[dict[str, Any]]:
    """Measure every series.

    :param rounds: interleaved rounds of each
    """
    return [measure(each, rounds) for each in series()]


def measure(of: Series, rounds: int) -> dict[str, Any]:
    """Return a series' points and how they grow."""
    # Memory first, in child processes: they must not inherit memory that this one has freed.
    peaks = {str(size): peak_mb(of, size) for size in of.sizes}
    calls = {str(size): of.make(size) for size in of.sizes}
    seconds = paired(calls, rounds=rounds, clock=time.process_time)
    times = [1e3 * statistics.median(seconds[str(size)]) for size in of.sizes]
    return {
        "name": f"{of.axis}, {of.name}",
        "ratio": times[-1] / times[0],
        "target": "",
        "exponent": exponent(of.sizes, times),
        "at_the_end": exponent(of.sizes[-2:], times[-2:]),
        "sizes": list(of.sizes),
        "ms": [float(f"{each:.3g}") for each in times],
        "peak_mb": [round(each, 1) for each in peaks.values()],
    }


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return b of the power law a * size ** b that is nearest in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def peak_mb(of: Series, size: int) -> float:
    """Return the peak memory of building and of two calls, in MB, measured in a child process."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(sending, f"{peak_here(of, size)}".encode())
        finally:
            os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as file:
        said = file.read()
    os.waitpid(child, 0)
    return float(said)


def peak_here(of: Series, size: int) -> float:
    """Return how far this process's memory rises, in MB; needs Linux with glibc."""
    libc = ctypes.CDLL(None)
    # Then large arrays have pages of their own, instead of memory that earlier ones left.
    libc.mallopt(M_MMAP_THRESHOLD, LARGE)
    # The first call loads libraries, which stay and don't depend on the size: leave them out.
    smallest = of.make(of.sizes[0])
    smallest()
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status_mb("VmRSS")
    call = of.make(size)
    call()
    call()
    return status_mb("VmHWM") - before


def status_mb(key: str) -> float:
    """Return a line of this process's status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1e3


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw time and memory of every series against its size, on logarithmic axes."""
    from matplotlib.figure import Figure

    from sb3_moe.watching.figures import look_of

    axes_names = list(dict.fromkeys(row["name"].split(", ")[0] for row in rows))
    figure = Figure(figsize=(3 * len(axes_names), 5), layout="constrained")
    panels = figure.subplots(2, len(axes_names), sharex="col", squeeze=False)
    for row in rows:
        axis, name = row["name"].split(", ", 1)
        column = panels[:, axes_names.index(axis)]
        label = f"{name}: {row['exponent']:.2f}, {row['at_the_end']:.2f}"
        look = look_of(len(column[0].lines))
        column[0].loglog(row["sizes"], row["ms"], label=label, **look)
        # Less than 0.1 MB is noise, and 0 has no logarithm.
        column[1].loglog(row["sizes"], np.maximum(row["peak_mb"], 0.1), **look)
        column[1].set_xlabel(axis)
        column[1].set_xticks(row["sizes"], row["sizes"], rotation=45)
    for panel in panels.flat:
        panel.minorticks_off()
    for panel in panels[0]:
        # Above the panel, where it hides no line.
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
        panel.legend(fontsize=7, title="exponent, at the end", title_fontsize=7, **place)
    panels[0, 0].set_ylabel("time (ms, one thread)")
    panels[1, 0].set_ylabel("peak memory (MB)")
    figure.savefig(path, dpi=100)
