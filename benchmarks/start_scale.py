"""How large the first outputs of networks with experts are, against dense: see `match_scale`.

Each number is a root mean square over seeds, standard-normal inputs and output units.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_moe.layers import LinearScores
from sb3_moe.policies import dqn, on_policy

HOW = (
    "Root mean square of the output over 64 seeds and standard-normal rows, over that of the dense "
    "network: `ratio` is the one farthest from 1 with `match_scale`, the columns are the outputs "
    "with it and, `off`, without."
)
ROUTERS: dict[str, dict[str, Any]] = {
    "soft": {"router": "soft"},
    "top-1": {"router": "top_k"},
    "top-2": {"router": "top_k", "top_k": 2},
    "top-2 renormalized": {"router": "top_k", "top_k": 2, "renormalize": True},
    "uniform": {"router": "uniform"},
    "random": {"router": "random"},
    "task": {"router": "task"},
}
PLACEMENTS = ("middle", "final", "all", "body", "big")
NUM_EXPERTS = (2, 4, 16, 64)
SHARPER = (1, 2, 4, 8)
# An input with a sharp gate in one layer has a sharper one in the next: a few inputs, and a few
# seeds, dominate the output's root mean square. One input of 2,048 has 500 times the mean square.
HEAVY_TAILED = [("all", router, 64) for router in ("soft", "top-1", "random")]
TABLE_ROWS = 2048
# A tanh behind the mixture shrinks such large outputs: hence the lower bound of 0.8 in `row`.
# More seeds for the dense network, since all else is compared with it, and it is cheap.
DENSE_SEEDS = 512


class Networks(NamedTuple):
    """What is built.

    :param num_tasks: tasks whose id is observed; 0: none
    :param image: observe images, and route the positions of their feature map
    """

    num_tasks: int = 0
    image: bool = False

    @property
    def space(self) -> spaces.Space[Any]:
        """What is observed."""
        if self.image:
            return spaces.Box(0, 1, (10, 10, 4), np.uint8)
        box = spaces.Box(-np.inf, np.inf, (8,))
        if not self.num_tasks:
            return box
        return spaces.Dict(obs=box, task_id=spaces.Discrete(self.num_tasks))

    @property
    def net_arch(self) -> list[int]:
        """Widths of hidden layers."""
        return [32] if self.image else [32, 32]

    def policies(self) -> dict[str, type[Any]]:
        """Return a policy class of each algorithm."""
        kind = "MultiInput" if self.num_tasks else "Cnn" if self.image else "Mlp"
        modules = {"PPO": on_policy, "DQN": dqn}
        return {name: getattr(each, f"Moe{kind}Policy") for name, each in modules.items()}


def run(seeds: int = 64) -> list[dict[str, Any]]:
    """Measure every placement with every router, and the cases without a promise.

    :param seeds: how many networks are drawn for each number
    """
    return [*(promised(*each, seeds) for each in combinations()), *reported(seeds)]


def promised(placement: str, router: str, num_experts: int, seeds: int) -> dict[str, Any]:
    """Measure a network whose outputs should start as large as the dense network's.

    :param placement: the option's value
    :param router: one of ``ROUTERS``
    :param num_experts: E
    :param seeds: how many
    """
    networks = Networks(num_tasks=num_experts if router == "task" else 0)
    options = {"placement": placement, "num_experts": num_experts, **ROUTERS[router]}
    name = f"{placement}, {router}, {num_experts} experts"
    bounds = None if (placement, router, num_experts) in HEAVY_TAILED else (0.8, 1.1)
    return row(name, networks, options, seeds, bounds=bounds)


def combinations() -> Iterator[tuple[str, str, int]]:
    """Give all combinations of placement, router and number of experts."""
    for num_experts, placement, router in itertools.product(NUM_EXPERTS, PLACEMENTS, ROUTERS):
        yield placement, router, num_experts


def reported(seeds: int) -> list[dict[str, Any]]:
    """Measure tokens of a feature map, and sharper gates, for which nothing is promised."""
    rows = []
    for router, num_experts in itertools.product(("soft", "top_k", "expert_choice"), (4, 16)):
        options = {"placement": "middle", "router": router, "num_experts": num_experts}
        name = f"middle, {router}, {num_experts} experts, conv tokens"
        rows.append(
            row(name, Networks(image=True), options | {"tokens": "conv"}, seeds // 4, bounds=None)
        )
    for router, sharper in itertools.product(("soft", "top-1"), SHARPER):
        options = {"placement": "middle", "num_experts": 16, **ROUTERS[router]}
        name = f"middle, {router}, 16 experts, router weights times {sharper}"
        rows.append(row(name, Networks(), options, seeds, bounds=None, sharper=sharper))
    return rows


def row(
    name: str,
    networks: Networks,
    options: dict[str, Any],
    seeds: int,
    *,
    bounds: tuple[float, float] | None = (0.8, 1.1),
    sharper: float = 1.0,
) -> dict[str, Any]:
    """Return one row of the table.

    :param name: what is measured
    :param networks: what is built
    :param options: of the policy
    :param seeds: how many
    :param bounds: between which the ratio should be
    :param sharper: factor of the router's weights
    """
    dense = dense_sizes(networks)
    matched = sizes(networks, options | {"match_scale": True}, seeds, sharper)
    on = relative(matched, dense)
    off = relative(sizes(networks, options, max(1, seeds // 4), sharper), dense)
    worst = max(on.values(), key=lambda ratio: abs(np.log(ratio)))
    found: dict[str, Any] = {"name": name, "ratio": worst, "target": ""}
    if bounds is not None:
        low, high = bounds
        found |= {"target": f"{low} to {high}", "met": bool(low <= worst <= high)}
    return found | on | {f"{key}, off": value for key, value in off.items()}


@functools.cache
def dense_sizes(networks: Networks, seeds: int = DENSE_SEEDS) -> dict[str, float]:
    return sizes(networks, {"placement": "none"}, seeds)


def relative(found: dict[str, float], dense: dict[str, float]) -> dict[str, float]:
    return {name: value / dense[name] for name, value in found.items()}


@th.no_grad()
def sizes(
    networks: Networks, options: dict[str, Any], seeds: int, sharper: float = 1.0
) -> dict[str, float]:
    """Return the root mean square of every output of the policies of PPO and DQN.

    :param networks: what is built
    :param options: of the policy
    :param seeds: how many
    :param sharper: factor of the router's weights
    """
    squares: dict[str, list[float]] = {}
    for (name, policy_class), seed in itertools.product(networks.policies().items(), range(seeds)):
        th.manual_seed(seed)
        policy = policy_class(
            networks.space,
            spaces.Discrete(4),
            lambda _: 1e-3,
            net_arch=networks.net_arch,
            **options,
        )
        policy.set_training_mode(False)
        for router in (m for m in policy.modules() if isinstance(m, LinearScores)):
            router.weight_RK.mul_(sharper)
        x = standard_normal(policy, networks, th.Generator().manual_seed(1000 + seed))
        for output, y in outputs(policy, x):
            squares.setdefault(f"{name} {output}", []).append(y.square().mean().item())
    return {name: float(np.sqrt(np.mean(values))) for name, values in squares.items()}


def standard_normal(policy: Any, networks: Networks, generator: th.Generator) -> th.Tensor:
    """Return random features, with the one-hot id of a task at the end if there are tasks."""
    net = getattr(policy, "q_net", policy)
    layout = policy.layout(net.features_extractor)
    rows = TABLE_ROWS if layout.map_shape is None else TABLE_ROWS // 8
    x = th.randn(rows, layout.features_dim - networks.num_tasks, generator=generator)
    if not networks.num_tasks:
        return x
    tasks = th.nn.functional.one_hot(th.arange(rows) % networks.num_tasks, networks.num_tasks)
    return th.cat([x, tasks.to(x.dtype)], dim=1)


def outputs(policy: Any, x: th.Tensor) -> Sequence[tuple[str, th.Tensor]]:
    """Return a policy's outputs for features, with their names."""
    if hasattr(policy, "q_net"):
        return [("Q values", policy.q_net.q_net(x))]
    actor, critic = policy.mlp_extractor(x)
    return [("actions", policy.action_net(actor)), ("values", policy.value_net(critic))]
