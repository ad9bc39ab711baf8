"""What a policy's optimisers are taught: penalties, and experts that stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch as th

from sb3_moe.layers import Experts
from sb3_moe.layers.checks import numbers_below
from sb3_moe.networks import kind_of, networks_of, tower_of
from sb3_moe.optimizers.idle_experts import MARK, IdleExperts, why_unsupported
from sb3_moe.policies.looks_inside import LooksInside
from sb3_moe.policies.spectral import penalise


class TeachesOptimizers(LooksInside):
    """A policy that lets steps know of penalties, and of experts that are idle or frozen."""

    # The optimisers that keep idle experts still, by tower.
    _taught: dict[str, th.optim.Optimizer]

    def teach_optimizers(self) -> None:
        """Let steps know of penalties and, behind these, of experts that are to stay still."""
        for each in vars(self).pop("_penalties", ()):
            each.remove()
        self._penalties = penalise(self)
        self._hold_experts()

    def set_frozen_experts(self, frozen: Mapping[str, Sequence[int]] | None) -> None:
        """Let these experts stay as they are from now on, and no others.

        Of a model whose files are to know it too, :func:`sb3_moe.freeze_experts` does it.

        :param frozen: numbers by tower or mixture; None: none
        :raises TypeError: if it is no dict of whole numbers
        :raises ValueError: if there is no such mixture or expert, or an optimiser of a class that
            is not known stands behind them
        """
        found = self.check_frozen_experts({} if frozen is None else frozen)
        self.frozen_experts = found or None
        for name, layer in self.moe_layers().items():
            layer.frozen = frozenset(found.get(name, ()))
        self._hold_experts()

    def check_frozen_experts(self, frozen: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
        """Return the numbers by mixture, if these experts can be frozen.

        :param frozen: numbers by tower or mixture
        :raises TypeError: as :meth:`set_frozen_experts`
        :raises ValueError: as :meth:`set_frozen_experts`
        """
        found = self._frozen_by_mixture(frozen)
        optimizers = networks_of(self).optimizers()
        for name in found:
            reason = why_unsupported(optimizers[tower_of(name)], "`frozen_experts`")
            if reason is not None:
                raise ValueError(reason)
        return found

    def _frozen_by_mixture(self, frozen: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
        if not isinstance(frozen, Mapping):
            raise TypeError(
                "`frozen_experts` must be a dict from towers or mixtures to numbers, got "
                f"{frozen!r}"
            )
        found: dict[str, set[int]] = {}
        for tower, numbers in frozen.items():
            try:
                mixtures = self.mixtures(tower)
            except ValueError as error:
                raise ValueError(str(error).replace("`tower`", "`frozen_experts`", 1)) from error
            for name, layer in mixtures.items():
                numbers_below("frozen_experts", numbers, layer.num_experts, name)
                found.setdefault(name, set()).update(map(int, numbers))
        return {name: sorted(numbers) for name, numbers in found.items() if numbers}

    def _hold_experts(self) -> None:
        """Let the optimisers keep experts as they are, where that is wanted."""
        optimizers = networks_of(self).optimizers()
        held: dict[th.optim.Optimizer, _Held] = {}
        for name, layer in self.moe_layers().items():
            tower, options = tower_of(name), self.moe[kind_of(name)]
            behind = held.setdefault(optimizers[tower], _Held([], {}, []))
            behind.others.append(layer.experts)
            if layer.frozen:
                behind.frozen[layer.experts] = layer.frozen
            if options.freezes_idle(layer):
                behind.idle.append(layer.experts)
                behind.explicit = behind.explicit or bool(options.freeze_idle)
        frozen = {
            name: sorted(layer.frozen) for name, layer in self.moe_layers().items() if layer.frozen
        }
        self.check_frozen_experts(frozen)  # by an optimiser that was put in another's place
        for known in vars(self).pop("_held", ()):
            known.remove()
        self._taught = optimizers
        self._held = [
            IdleExperts(
                optimizer,
                each.idle,
                always=each.explicit,
                frozen=each.frozen,
                others=each.others,
            )
            for optimizer, each in held.items()
            if each.explicit or why_unsupported(optimizer) is None
        ]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the hooks, which copies of the optimisers don't have."""
        left_out = ("_held", "_penalties", "_taught")
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what a pickle or a copy holds, and teach the optimisers again: they forget it."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's
        for optimizer in networks_of(self).every_optimizer():
            for group in optimizer.param_groups:
                group.setdefault(MARK, False)
        self.teach_optimizers()

    def _teach_again(self) -> None:
        """Teach an optimiser that the user put in another's place."""
        optimizers = networks_of(self).optimizers()
        if any(optimizers[tower] is not known for tower, known in self._taught.items()):
            self.teach_optimizers()


@dataclass
class _Held:
    """Experts behind one optimiser: which stay still while they are idle, or in any case; all.

    :param explicit: whether idle ones were asked to
    """

    idle: list[Experts]
    frozen: dict[Experts, frozenset[int]]
    others: list[Experts]
    explicit: bool = False
