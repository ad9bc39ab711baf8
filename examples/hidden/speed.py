"""What gates by prediction cost: steps per second of processor time, the environment included.

    python examples/hidden/speed.py

All networks learn in one process, a few rollouts each in turn, so that a busy machine slows all.
"""

from __future__ import annotations

import time

import numpy as np
import torch as th
from compare import BIG, NETWORKS, make

ROUNDS, STEPS = 8, 8_192
# Experts that see the history, and yet have about as many parameters as eight that don't.
NARROW = {**BIG, "net_arch": [4, 4], "router": "soft", "num_experts": 8}


def main() -> None:
    """Print each network's speed, and its ratio to gates by prediction with eight experts."""
    th.set_num_threads(1)
    NETWORKS["soft, 4 wide"] = (NARROW, "history")
    names = ("predict-8", "predict-16", "dense-belief-8", "dense-history", "soft, 4 wide", "soft")
    models = {name: make("interleaved", name, 0.003, seed=0) for name in names}
    for model in models.values():
        model.learn(2_048)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name, model in models.items():
            start = time.process_time()
            model.learn(STEPS)
            seconds[name].append(time.process_time() - start)
    print("| network | parameters | steps/s | times as fast as `predict-8` (quartiles) |")
    print("|---|---|---|---|")
    for name, own in seconds.items():
        size = sum(each.numel() for each in models[name].policy.parameters())
        low, middle, high = np.quantile(np.array(seconds["predict-8"]) / own, [0.25, 0.5, 0.75])
        speed = f"{STEPS / np.median(own):,.0f} | {middle:.2f} ({low:.2f} to {high:.2f})"
        print(f"| `{name}` | {size:,} | {speed} |")


if __name__ == "__main__":
    main()
