"""Train a network of which most weights are zero, from the start to the end."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from sb3_moe.callbacks.same_training import same_training
from sb3_moe.callbacks.task_switch import TaskSwitchCallback
from sb3_moe.callbacks.trpo import refuse_trpo
from sb3_moe.growing.connections import annealed
from sb3_moe.growing.densities import DENSITIES
from sb3_moe.growing.sparsifying import Growth, SparseNetworks, counts_of
from sb3_moe.layers.checks import one_of, whole, yes_or_no
from sb3_moe.networks import uncompiled
from sb3_moe.vec_env.tasks import LAYER, short_names

Method = Literal["static", "set", "rigl"]
#: What picks the connections that grow, by method.
GROWTH: dict[str, Growth | None] = {"static": None, "set": "random", "rigl": "gradient"}
# As the authors of arXiv 2206.10369 train DQN and SAC (PPO: 250 steps).
_DEFAULTS: dict[str, Any] = {"drop_fraction": 0.3, "interval": 1000, "end_fraction": 0.8}


class SparseTrainingCallback(BaseCallback):
    """Keep most weights of every network at zero while it learns (arXiv 2206.10369).

    For any algorithm that has optimisers, with SB3's policies or ours. Masks are drawn before the
    first step, for each network by itself, and applied after every step of the optimiser to
    weights, their moments and target networks. As in the authors' code, all linear and
    convolutional layers are sparse, those of the output too; biases, normalisations, LSTMs and a
    mixture's routers are dense. Each expert is a layer of its own. Logged:
    ``sparsity/alive/<tower>``, and for ``"set"`` and ``"rigl"`` ``sparsity/changed``, the
    connections that the last change made.

    Masks are saved with the optimiser, and a model that has some goes on with them, until
    :func:`sb3_moe.growing.drop_masks`. After training the weights stay as they are; without this
    callback the next training fills them.

    :param sparsity: share of the weights of each network that are zero, in [0, 1)
    :param method: ``"static"``: the masks stay; ``"set"``: the smallest weights are dropped and
        others, at random, grow from zero (arXiv 1707.04780); ``"rigl"``: those with the largest
        gradient grow (arXiv 1911.11134)
    :param densities: ``"erk"``: layers with few weights are denser (Erdos-Renyi-Kernel);
        ``"uniform"``: all are alike
    :param drop_fraction: share of a layer's connections that change, at the beginning; it falls to
        0 along half a cosine; None: 0.3
    :param interval: steps of the optimiser between changes; None: 1,000
    :param end_fraction: share of training after which connections stay; None: 0.8
    :param rescale: whether living weights start larger, so that what units read stays as large as
        in the dense network
    :param seed: of the masks; None: the model's
    :param verbose: 1 prints how many weights are alive
    :raises TypeError: if an argument is of the wrong type
    :raises ValueError: if it is out of range, or not used by the method, or a TaskSwitchCallback
        beside it would add experts, or connections would change under TRPO
    """

    def __init__(
        self,
        sparsity: float,
        method: Method = "static",
        *,
        densities: str = "erk",
        drop_fraction: float | None = None,
        interval: int | None = None,
        end_fraction: float | None = None,
        rescale: bool = True,
        seed: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        _number("sparsity", sparsity)
        if not 0 <= sparsity < 1:
            raise ValueError(f"`sparsity` must be in [0, 1), got {sparsity}")
        one_of("method", method, list(GROWTH))
        one_of("densities", densities, list(DENSITIES))
        yes_or_no("rescale", rescale)
        if seed is not None:
            whole("seed", seed, least=0)
        self.sparsity, self.method, self.densities = float(sparsity), method, densities
        self.rescale, self.seed = rescale, seed
        given = {
            "drop_fraction": drop_fraction,
            "interval": interval,
            "end_fraction": end_fraction,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        self._check_changes(chosen)
        self._changes = _DEFAULTS | chosen
        self._networks: SparseNetworks | None = None
        self._alive: dict[str, int] = {}
        self._changed: dict[th.optim.Optimizer, int] = {}

    def _check_changes(self, chosen: dict[str, Any]) -> None:
        if chosen and GROWTH[self.method] is None:
            name, value = next(iter(chosen.items()))
            raise ValueError(
                f"`{name}` must be None for `method`={self.method!r}, whose connections don't "
                f"change, got {value}"
            )
        if "interval" in chosen:
            whole("interval", chosen["interval"])
        for name in ("drop_fraction", "end_fraction"):
            if name in chosen:
                _number(name, chosen[name])
                if not 0 < chosen[name] <= 1:
                    raise ValueError(f"`{name}` must be in (0, 1], got {chosen[name]}")

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check that there is something to make sparse."""
        self.check_model(model)
        super().init_callback(model)
        self._networks = SparseNetworks(uncompiled(model.policy))

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError where the method needs steps that the algorithm doesn't take."""
        if GROWTH[self.method] is not None:  # behind the optimiser's steps, by its gradients
            own = f"{type(self).__name__}(method={self.method!r})"
            refuse_trpo(model, own, "use method='static', or PPO")

    def _on_training_start(self) -> None:
        networks = self._networks
        assert networks is not None, "init_callback comes first"
        _refuse_growth(self.locals.get("callback"))
        counts = counts_of(networks.layers, self.sparsity, self.densities)
        networks.begin(counts, self._chosen_seed(), rescale=self.rescale)
        networks.attach(self._is_due, self._regrow, same_training(self.model))
        self._alive = networks.alive()
        if self.verbose:
            total = sum(layer.weight.numel() for layer in networks.layers)
            print(f"{sum(self._alive.values()):,} of {total:,} weights are alive")

    def _chosen_seed(self) -> int:
        for seed in (self.seed, self.model.seed):
            if seed is not None:
                return int(seed)
        return int(np.random.SeedSequence().generate_state(1)[0])

    def _fraction(self) -> float:
        total = max(self.model._total_timesteps, 1)
        progress = self.model.num_timesteps / total
        changes = self._changes
        return annealed(changes["drop_fraction"], progress, changes["end_fraction"])

    def _is_due(self, update: int) -> bool:
        dynamic = GROWTH[self.method] is not None
        return dynamic and update % self._changes["interval"] == 0 and self._fraction() > 0

    def _regrow(self, optimizer: th.optim.Optimizer) -> None:
        growth = GROWTH[self.method]
        assert self._networks is not None
        assert growth is not None, "nothing is due else"
        self._changed[optimizer] = self._networks.regrow(optimizer, self._fraction(), growth)

    def _on_rollout_end(self) -> None:
        names = short_names(list(self._alive), LAYER)
        for name, count in zip(names, self._alive.values(), strict=True):
            self.logger.record(f"sparsity/alive/{name}", count)
        if self._changed:
            self.logger.record("sparsity/changed", sum(self._changed.values()))

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self._networks is not None:
            self._networks.detach()


def _refuse_growth(callback: object) -> None:
    """Refuse a callback, or one in a list, that will add experts, before weights are changed."""
    for each in callback.callbacks if isinstance(callback, CallbackList) else ():
        _refuse_growth(each)
    if isinstance(callback, TaskSwitchCallback) and callback.on_new_task is not None:
        raise ValueError(
            "`on_new_task` of TaskSwitchCallback must be None beside SparseTrainingCallback, which "
            "keeps a mask for each tensor, and those of other experts would have none, got "
            f"{callback.on_new_task!r}"
        )


def _number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        raise TypeError(f"`{name}` must be a number, got {value!r}")
    if math.isnan(value):
        raise ValueError(f"`{name}` must be a number, got {value}")
