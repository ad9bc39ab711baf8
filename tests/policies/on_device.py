"""What is done with a policy on a device, as small as it can be."""

from __future__ import annotations

from typing import Any

import arena
import cases
from fake_device import NAME, Watch, fake_device
from stable_baselines3.common.callbacks import BaseCallback

STEPS = 4


def sizes(algorithm: str) -> dict[str, Any]:
    """Return arguments with which ``STEPS`` steps hold an update."""
    if algorithm not in arena.ON_POLICY:
        return {"learning_starts": 2, "batch_size": 4, "train_freq": 2, "gradient_steps": 1}
    found: dict[str, Any] = {"n_steps": STEPS}
    if algorithm == "TRPO":
        found |= {"cg_max_steps": 2, "line_search_max_iter": 2, "n_critic_updates": 1}
    if algorithm != "A2C":
        found["batch_size"] = STEPS
    if algorithm in ("PPO", "MaskablePPO", "RecurrentPPO"):
        found["n_epochs"] = 1
    return found


def make(algorithm: str, alias: str, *, model: dict[str, Any] | None = None, **options: Any) -> Any:
    """Build a small model on the fake device; only inside its context.

    :param algorithm: a key of the table of algorithms
    :param alias: policy name
    :param model: more arguments of the algorithm
    :param options: of the policy
    """
    model = sizes(algorithm) | (model or {})
    return arena.make(algorithm, alias, model=model, device=NAME, net_arch=[8], **options)


def learn(model: Any, callback: BaseCallback | None = None) -> None:
    """Collect a few steps and update once or twice."""
    model.learn(STEPS, callback=callback, log_interval=10**6)


def train_and_act(case: cases.Case) -> Watch:
    """Train as a case says, choose actions and ask the routers.

    :param case: of a policy
    """
    with fake_device() as watch:
        model = cases.make(case, model=sizes(case.algorithm), device=NAME)
        learn(model)
        obs = arena.observe(model)
        model.predict(obs)
        model.policy.routing(obs)
        on_device(model)
    return watch


def on_device(model: Any) -> None:
    """Check that a model has nothing of its own on the host."""
    policy = model.policy
    for name, tensor in (*policy.named_parameters(), *policy.named_buffers()):
        assert tensor.device.type == NAME, name
        assert tensor.grad is None or tensor.grad.device.type == NAME, name
