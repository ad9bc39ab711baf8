"""Read the dense network that SB3 built layer by layer, and make new modules from its layers.

SB3 builds every network as a list of linear layers with activations between (``create_mlp``).
Reading that list keeps each algorithm's own choices: widths, activations, CrossQ's BatchRenorm,
TD3's final tanh.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from torch import nn

from sb3_moe.layers.activations import is_norm
from sb3_moe.layers.registry import simba_block
from sb3_moe.layers.shares import tensors_of

Init = Callable[[nn.Module], object]


@dataclass
class Stage:
    """One linear layer with what is around it.

    :param linear: the layer
    :param norms: the norms before it
    :param acts: its activation, which a norm may precede
    :param last_norms: the norms behind the activation of a network's last hidden layer
    """

    linear: nn.Linear
    norms: list[nn.Module] = field(default_factory=list)
    acts: list[nn.Module] = field(default_factory=list)
    last_norms: list[nn.Module] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Outputs of the layer."""
        return self.linear.out_features

    @property
    def after(self) -> list[nn.Module]:
        """The activation, and the norms around it."""
        return [*self.acts, *self.last_norms]

    def norms_for(self, width: int) -> list[nn.Module]:
        """Return copies of the norms before the layer, for rows of some width."""
        return [fitted(norm, width) for norm in self.norms]

    def simba(self, dim: int, width: int, *, first: bool, last: bool) -> list[nn.Module]:
        """Return a SimBa block in place of the layer, initialized as torch does.

        :param dim: width of the block's input
        :param width: width of the block's output
        :param first: whether it is the first of several blocks
        :param last: whether it is the last block, which a normalization follows
        """
        embedding = [nn.Linear(dim, width)] if first or dim != width else []
        norms = [nn.LayerNorm(width)] if last else []
        after = [fitted(norm, width) for norm in self.last_norms]
        return [*embedding, simba_block(width, self.activation()), *norms, *after]

    def activation(self, normed_width: int | None = None) -> nn.Module:
        """Return a copy of the activation.

        :param normed_width: include the norm before it, for rows of that width; None: leave it out
        """
        own = [m for m in self.acts if normed_width or not is_norm(m)]
        acts = [fitted(m, normed_width or self.width) for m in own]
        return acts[0] if len(acts) == 1 else nn.Sequential(*acts)


def read_stages(modules: Iterable[nn.Module]) -> list[Stage]:
    """Group a dense network's modules by linear layer."""
    stages: list[Stage] = []
    norms: list[nn.Module] = []
    for module in modules:
        if isinstance(module, nn.Linear):
            stages.append(Stage(module, norms))
            norms = []
        elif is_norm(module):
            norms.append(module)
        else:
            stages[-1].acts.append(module)
    if stages:
        stages[-1].last_norms = norms
    return stages


def fitted(module: nn.Module, width: int) -> nn.Module:
    """Return a copy of a dense layer's activation or normalization, for rows of another width.

    All entries of a normalization's tensor are taken to be equal, as they are at the start.
    """
    module = copy.deepcopy(module)
    if not is_norm(module):
        for each in module.modules():
            if getattr(each, "inplace", False):
                each.inplace = False  # type: ignore[assignment]  # a sum over experts may be a view
        return module
    for tensor in tensors_of(module):
        if tensor.dim() == 1 and len(tensor) != width:
            tensor.data = tensor.data[:1].repeat(width)
    if hasattr(module, "normalized_shape"):
        module.normalized_shape = (width,)  # type: ignore[assignment]  # a plain attribute
    else:
        module.num_features = width  # type: ignore[assignment]
    return module
