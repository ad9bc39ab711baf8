"""Tell a policy's optimizers about penalties, and about experts that stay as they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th

from sb3_moe.layers.checks import numbers_below
from sb3_moe.layers.shares import FrozenStatistics
from sb3_moe.policies.looks_inside import LooksInside
from sb3_moe.policies.networks import kind_of, network_of, networks_of
from sb3_moe.policies.optimizers import ExpertAdam, ExpertLayer
from sb3_moe.policies.spectral import penalize


class TeachesOptimizers(LooksInside):
    """A policy that tells its optimizers about penalties, and about idle or frozen experts."""

    # The optimizers that have been told, by network.
    _taught: dict[str, th.optim.Optimizer]

    def teach_optimizers(self) -> None:
        """Tell the optimizers about penalties and about experts that are to stay as they are."""
        kept = vars(self)
        for each in (*kept.pop("_of_layers", ()), *kept.pop("_of_steps", ())):
            each.remove()
        self._of_layers, self._of_steps = penalize(self)
        self._taught = networks_of(self).optimizers()
        known = []
        for name, layer in self.moe_layers().items():
            optimizer = self._taught[network_of(name)]
            wanted = self.moe[kind_of(name)].freeze_idle
            freeze_idle = layer.leaves_out and (layer.needs_tasks if wanted is None else wanted)
            if layer.frozen or (freeze_idle and wanted):
                check_optimizer(optimizer, "frozen_experts" if layer.frozen else "freeze_idle")
            known.append(ExpertLayer(layer.experts.shares(), freeze_idle, layer.frozen))
            if layer.frozen and layer.experts.statistics():
                self._of_layers += FrozenStatistics(layer).handles
        for optimizer in {*self._taught.values()}:
            if isinstance(optimizer, ExpertAdam):
                optimizer.set_experts(known)

    def set_frozen_experts(self, frozen: Mapping[str, Sequence[int]] | None) -> None:
        """Let these experts stay as they are from now on, and no others.

        For a model, use :func:`sb3_moe.freeze_experts`, so that the model's files keep it too.

        :param frozen: numbers of experts by network or mixture; None: no expert is frozen
        :raises TypeError: if it is not a dict with lists of whole numbers
        :raises ValueError: if there is no such mixture or expert, or the experts' optimizer is of
            another class than Adam or AdamW
        """
        found = self.check_frozen_experts({} if frozen is None else frozen)
        self.frozen_experts = found or None
        for name, layer in self.moe_layers().items():
            layer.frozen = frozenset(found.get(name, ()))
        self.teach_optimizers()

    def check_frozen_experts(self, frozen: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
        """Return the experts' numbers by mixture; raise if one of them can't be frozen.

        :param frozen: numbers of experts by network or mixture
        :raises TypeError: as :meth:`set_frozen_experts`
        :raises ValueError: as :meth:`set_frozen_experts`
        """
        if not isinstance(frozen, Mapping):
            raise TypeError(f"`frozen_experts` must be a dict such as dict(pi=[0]), got {frozen!r}")
        found: dict[str, set[int]] = {}
        optimizers = networks_of(self).optimizers()
        for network, numbers in frozen.items():
            for name, layer in self.mixtures(network).items():
                numbers_below("frozen_experts", numbers, layer.num_experts, name)
                if len(numbers):
                    check_optimizer(optimizers[network_of(name)], "frozen_experts")
                    found.setdefault(name, set()).update(map(int, numbers))
        return {name: sorted(numbers) for name, numbers in found.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the hooks of optimizers and tensors, which copies of these don't have."""
        return {name: value for name, value in vars(self).items() if name != "_of_steps"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the policy from a pickle or a copy, and register these hooks again."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's
        self.teach_optimizers()

    def _teach_again(self) -> None:
        """Tell the optimizers again if the user has replaced one of them."""
        optimizers = networks_of(self).optimizers()
        if any(optimizers[network] is not known for network, known in self._taught.items()):
            self.teach_optimizers()


def check_optimizer(optimizer: th.optim.Optimizer, option: str) -> None:
    """Raise unless an optimizer can keep single experts as they are.

    :param optimizer: optimizer of the experts
    :param option: name of the option that asks for it
    :raises ValueError: if the optimizer is not an ExpertAdam
    """
    if not isinstance(optimizer, ExpertAdam):
        raise ValueError(
            f"`{option}` needs Adam or AdamW as `optimizer_class`, which policies build as an "
            f"ExpertAdam (for A2C also `use_rms_prop`=False), got {type(optimizer).__name__}"
        )
