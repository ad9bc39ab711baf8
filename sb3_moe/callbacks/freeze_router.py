"""Stop routers once they have settled.

Shapes: B samples, N tokens, E experts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.callbacks.periodic import CurrentTask, refuse_trpo, remembered
from sb3_moe.callbacks.probing import ProbeCallback
from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import whole, whole_or_none
from sb3_moe.layers.predict import positive
from sb3_moe.measures.resets import hold_router, router_parameters
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.of_model import policy_of
from sb3_moe.vec_env.observations import Obs, concatenate
from sb3_moe.vec_env.tasks import LAYER, short_names


class FreezeRouterCallback(ProbeCallback):
    """Stop a mixture's router once its gates have settled, or at a step (arXiv 2406.16437).

    Gates are compared from one measurement to the next on a fixed batch of every task: how much
    of a row's weight went to other experts, on average. A frozen router keeps its weights, their
    averages in the optimizer, and the bias of ``bias_rate`` bit for bit; experts learn on. It logs
    ``moe/moved/<mixture>``, and ``moe/frozen/<mixture>`` when that changes. Routers are frozen
    while this callback is in training; what a resumed run must know is kept in
    ``model.frozen_routers``, which SB3 saves.

    :param every: global steps between measurements
    :param bound: gates that have moved less have settled, in (0, 1]; None: only ``at_step`` counts
    :param patience: in how many measurements in a row they must have moved less
    :param at_step: freeze every router at the first measurement so many global steps after training
        began, or after the last thaw; None: only ``bound`` counts
    :param thaw_at_switch: let them learn again whenever the task changes
    :param probe_size: observations altogether, at least one for each task
    :param probe: the batch itself, one entry for each task, in place of collecting one
    :param verbose: 1 prints what is frozen and thawed
    :raises ValueError: if a number is out of range, nothing would ever freeze, or no router learns
    """

    def __init__(
        self,
        every: int,
        *,
        bound: float | None = 0.02,
        patience: int = 3,
        at_step: int | None = None,
        thaw_at_switch: bool = False,
        probe_size: int = 256,
        probe: list[Obs] | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, probe_size=probe_size, probe=probe, verbose=verbose)
        if bound is None and at_step is None:
            raise ValueError("`bound` or `at_step` must say when to freeze, got None for both")
        if bound is not None:
            positive("bound", bound, at_most=1.0)
        whole("patience", patience)
        whole_or_none("at_step", at_step)
        self.bound = bound
        self.patience = patience
        self.at_step = at_step
        self.thaw_at_switch = thaw_at_switch

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check that there are tasks where they count."""
        super().init_callback(model)
        self._task = CurrentTask(self.training_env, required=self.thaw_at_switch)

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless a router learns, in steps of an optimizer."""
        refuse_trpo(model, type(self).__name__)
        layers = model.policy.moe_layers() if isinstance(model.policy, MoEPolicy) else {}
        if not any(router_parameters(layer) for layer in layers.values()):
            kinds = sorted({type(layer).__name__ for layer in layers.values()})
            raise ValueError(
                "the policy must have a router that learns, such as `router`='soft', got "
                f"{', '.join(kinds) or 'no mixture of experts'}"
            )

    def _routers(self) -> dict[str, MoELayer]:
        """Return the mixtures whose routers learn; experts that join make new ones."""
        layers = policy_of(self.model).moe_layers().items()
        return {name: layer for name, layer in layers if router_parameters(layer)}

    def _on_training_start(self) -> None:
        """Go on from what the model remembers."""
        self.kept = remembered(self.model, "frozen_routers")
        fresh = {"last": None, "updates": None, "probe": None, "task_names": self.task_names}
        self.kept |= fresh | self._awake() | self.kept
        if self.kept["task_names"] != self.task_names:
            self.kept |= {"task_names": self.task_names, "gates": {}}
        elif self.given is None:  # training's first observations don't come again
            self.probe = self.kept["probe"] or self.probe
        super()._on_training_start()
        self._hold()

    def _awake(self) -> dict[str, Any]:
        """Return what there is to remember of routers that learn from now on."""
        return {"since": self.model.num_timesteps, "gates": {}, "settled": {}, "frozen": []}

    def _hold(self) -> None:
        """Hold the routers that are frozen, and no others: training that broke off may have."""
        for name, layer in self._routers().items():
            hold_router(layer, name in self.kept["frozen"])

    def _resume(self, step: int) -> int | None:
        last: int | None = self.kept["last"]
        return last

    def _on_rollout_start(self) -> None:
        if self.thaw_at_switch and self._task.ended(self.kept) is not None:
            for name in self.kept["frozen"]:
                self._tell(name, frozen=False)
            self.kept |= self._awake()
            self._hold()
        super()._on_rollout_start()

    def _tell(self, name: str, *, frozen: bool) -> None:
        self.logger.record(f"moe/frozen/{self._keys()[name]}", int(frozen))
        if self.verbose:
            word = "frozen" if frozen else "learns again"
            print(f"The router of {name} is {word} at {self.model.num_timesteps} steps")

    def _keys(self) -> dict[str, str]:
        names = list(self._routers())
        return dict(zip(names, short_names(names, LAYER), strict=True))

    def act(self, step: int) -> bool:
        """Measure how far gates have moved, and freeze what has settled."""
        updates = getattr(self.model, "_n_updates", None)
        if updates is None or updates != self.kept["updates"]:  # else nothing has learned
            self._measure()
        self.kept |= {"last": step, "updates": updates, "probe": self.probe}
        is_time = self.at_step is not None and step - self.kept["since"] >= self.at_step
        for name in self._routers():
            settles = is_time or self.kept["settled"].get(name, 0) >= self.patience
            if settles and name not in self.kept["frozen"]:
                self.kept["frozen"].append(name)
                self._tell(name, frozen=True)
        self._hold()
        return True

    @th.no_grad()
    def _measure(self) -> None:
        routings = policy_of(self.model).routing(concatenate(self.batches()))
        settled, moved = self.kept["settled"], {}
        for name, key in self._keys().items():
            gates_BNE = routings[name].gates_BNE.float().cpu().numpy()
            before_BNE, self.kept["gates"][name] = self.kept["gates"].get(name), gates_BNE
            # Experts may have joined or left.
            if before_BNE is None or before_BNE.shape != gates_BNE.shape:
                continue
            moved[key] = float(np.abs(gates_BNE - before_BNE).sum(-1).mean() / 2)
            has_settled = self.bound is not None and moved[key] < self.bound
            settled[name] = settled.get(name, 0) + 1 if has_settled else 0
        self.log_scalars({"moe/moved/{}": moved})

    def _on_training_end(self) -> None:
        """Leave a model whose parameters are like any other's."""
        for layer in self._routers().values():
            hold_router(layer, False)
