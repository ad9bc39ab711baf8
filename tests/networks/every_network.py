"""Small models of every algorithm, dense and with experts, whose networks tests ask for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import arena
import pytest
from torch import nn

from sb3_moe.policies.registration import TABLE

CASES = [
    (algorithm, prefix + ("MlpLstmPolicy" if algorithm == "RecurrentPPO" else "MlpPolicy"))
    for algorithm in TABLE
    for prefix in ("", "Moe")
]
every_policy = pytest.mark.parametrize(("algorithm", "alias"), CASES)


def make(
    algorithm: str, alias: str, *, model: dict[str, Any] | None = None, **policy_kwargs: Any
) -> Any:
    """Return a small model; where it has experts, it sees a task id."""
    num_tasks = arena.NUM_TASKS if "Moe" in alias else 0
    if num_tasks:
        policy_kwargs["features_extractor_kwargs"] = {"num_tasks": num_tasks}
    if "Lstm" in alias:
        policy_kwargs["lstm_hidden_size"] = 8
    env = arena.default_env(algorithm, "MoeMlpPolicy", num_tasks)
    return arena.make(algorithm, alias, env, model=model, net_arch=[8, 6], **policy_kwargs)


def parameters_of(held: Iterable[nn.Module | nn.Parameter]) -> Iterator[nn.Parameter]:
    """Yield the parameters among and in modules."""
    for each in held:
        yield from [each] if isinstance(each, nn.Parameter) else each.parameters()
