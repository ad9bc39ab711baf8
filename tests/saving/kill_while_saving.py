"""Save over a file again and again, and be killed at random moments: `PATH KILLS`.

Prints "whole" for each kill after which the file was the old or the new one, and loaded.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import arena

import sb3_moe


def bytes_of(model, path):
    sb3_moe.save(model, path)
    return path.read_bytes()


def save_in_a_child(model, path):
    """Save in a process of its own and return its id."""
    child = os.fork()
    if child == 0:
        try:
            sb3_moe.save(model, path)
        finally:
            os._exit(0)
    return child


def main(path, kills):
    models = [arena.make("PPO", seed=seed, net_arch=[64], num_experts=2) for seed in (0, 1)]
    old, new = (bytes_of(model, path) for model in models)
    assert old != new
    begin = time.perf_counter()
    os.waitpid(save_in_a_child(models[1], path), 0)
    takes = time.perf_counter() - begin
    draw = random.Random(0)
    for _ in range(kills):
        path.write_bytes(old)
        child = save_in_a_child(models[1], path)
        time.sleep(draw.uniform(0.0, 1.2 * takes))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert path.read_bytes() in (old, new)
        sb3_moe.load(path, device="cpu")
        print("whole")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
