"""Which weights and statistics belong to which experts."""

from typing import Any, NamedTuple

from torch import Tensor, nn


class Share(NamedTuple):
    """A weight or a buffer, and the experts that its entries belong to.

    :param tensor: the experts' entries, one expert's after the other on the first axis
    :param first: number of the first of these experts
    :param num_experts: how many there are
    """

    tensor: Tensor
    first: int
    num_experts: int

    def of(self, k: int) -> Tensor | None:
        """Return one expert's entries, None if it has none."""
        if not self.first <= k < self.first + self.num_experts:
            return None
        if self.num_experts == 1:
            return self.tensor
        return self.tensor.unflatten(0, (self.num_experts, -1))[k - self.first]


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Return a module's parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


class FrozenStatistics:
    """Restore the buffers of a layer's frozen experts after each forward pass in training.

    :param layer: the layer, which gets the hooks
    """

    def __init__(self, layer: nn.Module) -> None:
        self._before: list[tuple[Tensor, Tensor]] = []
        self.handles = [
            layer.register_forward_pre_hook(self._remember),
            layer.register_forward_hook(self._put_back),
        ]

    def _remember(self, layer: Any, args: Any) -> None:
        statistics = layer.experts.statistics() if layer.training else ()
        parts = [share.of(k) for share in statistics for k in layer.frozen]
        self._before = [(part, part.clone()) for part in parts if part is not None]

    def _put_back(self, layer: Any, args: Any, output: Any) -> None:
        for part, was in self._before:
            # `.data` hides the change from autograd. A normalization saves these buffers for its
            # backward pass, but doesn't read them there.
            part.data.copy_(was)
        self._before = []
