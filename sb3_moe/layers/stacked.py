"""One module for all experts: the stacked counterparts of Linear, Conv2d and other layers.

Shapes: E experts, T rows that every expert sees, M rows per expert, I inputs, O outputs. Rows are
(T, I) while all experts see the same, and (E, M, I) once each has its own. Images keep the experts
in their channels: (T, C, height, width), then (T, E*C, height, width).
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch as th
from torch import Tensor, nn
from torch.nn import functional as F

from sb3_moe.layers.activations import POINTWISE
from sb3_moe.layers.encoder import ImageEncoder, Residual, encode, split_image
from sb3_moe.layers.shares import Share, tensors_of

Function = Callable[[Tensor], Tensor]


class Stacked(nn.Module):
    """A layer that every expert has, with the experts' weights on one leading axis.

    ``forward`` takes rows that all experts see, (T, I), or each expert's own, (E, M, I), and
    returns (E, M, O).

    :param num_experts: E
    """

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts

    def apart(self) -> list[Function]:
        """Return each expert's layer as a function; the backward pass stacks gradients once."""
        raise NotImplementedError

    def unstack(self, k: int) -> nn.Module:
        """Return expert ``k``'s layer as a plain module with copied weights."""
        raise NotImplementedError

    def shares(self) -> list[Share]:
        """Return the layer's own weights and buffers, without those of layers inside it."""
        return [Share(each, 0, self.num_experts) for each in self.parameters(recurse=False)]


class StackedWeights(Stacked):
    """A layer of a weight and maybe a bias.

    :cvar function: the layer as a function of an input, ``weight`` and ``bias``
    :param modules: one per expert
    """

    function: Callable[..., Tensor]

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__(len(modules))
        # One expert's module, without values. In a tuple, so that it isn't registered here.
        self._plain = (copy.deepcopy(modules[0]).to("meta"),)

    def stacked(self) -> list[Tensor]:
        """Return the weight, and the bias if there is one, as a plain module has them, (E, ...)."""
        return list(self.parameters(recurse=False))

    def apart(self) -> list[Function]:
        """Return each expert's layer as a function."""
        weights, *rest = (each.unbind() for each in self.stacked())
        biases = rest[0] if rest else [None] * self.num_experts
        pairs = zip(weights, biases, strict=True)
        return [partial(self.function, weight=weight, bias=bias) for weight, bias in pairs]

    @th.no_grad()
    def unstack(self, k: int) -> nn.Module:
        """Return expert ``k``'s layer as a plain module with copied weights."""
        tensors = [each[k] for each in self.stacked()]
        module = copy.deepcopy(self._plain[0]).to_empty(device=tensors[0].device)
        module = module.to(tensors[0].dtype)
        for parameter, tensor in zip(module.parameters(), tensors, strict=True):
            parameter.copy_(tensor)
        return module


class StackedLinear(StackedWeights):
    """E linear layers.

    :param linears: one ``nn.Linear`` per expert, already initialized
    :param last: store the weight as (E, I, O) rather than (E, O, I). An expert's last layer is
        summed over experts, and this order makes that sum part of one GEMM without a copy
    """

    function = staticmethod(F.linear)

    def __init__(self, linears: Sequence[nn.Linear], *, last: bool = False) -> None:
        super().__init__(linears)
        self.in_features = linears[0].in_features
        self.out_features = linears[0].out_features
        self.last = last
        self.weight = _stacked(linears, "weight")
        self.bias_EO = _stacked(linears, "bias")
        if last:
            self.weight.data = self.weight.data.transpose(1, 2).contiguous()

    @property
    def weight_EOI(self) -> Tensor:
        """The weight as (E, out, in), a view whatever the stored order."""
        return self.weight.transpose(1, 2) if self.last else self.weight

    @property
    def weight_EIO(self) -> Tensor:
        """The weight as (E, in, out), a view whatever the stored order."""
        return self.weight if self.last else self.weight.transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Apply each expert's layer: (T, I) or (E, M, I) to (E, M, O)."""
        if x.dim() == 2 and not self.last:
            bias = None if self.bias_EO is None else self.bias_EO.flatten()
            y_TK = F.linear(x, self.weight.flatten(0, 1), bias)
            # Not `unflatten`: ONNX would export T as a constant.
            return y_TK.view(-1, self.num_experts, self.out_features).transpose(0, 1)
        x_EMI = x.expand(self.num_experts, *x.shape) if x.dim() == 2 else x
        if self.bias_EO is None:
            return th.bmm(x_EMI, self.weight_EIO)
        return th.baddbmm(self.bias_EO.unsqueeze(1), x_EMI, self.weight_EIO)

    def mix(self, x: Tensor, gates_TE: Tensor) -> Tensor:
        """Apply each expert's layer and sum over experts, weighted by the gates.

        :param x: (T, I) or (E, T, I)
        :param gates_TE: the gates
        :return: (T, O)
        """
        x_TEI = x.transpose(0, 1)
        if not self.last or not x_TEI.is_contiguous():
            return gated_sum(self(x), gates_TE)
        gated_TK = (x_TEI * gates_TE.unsqueeze(-1)).flatten(1)
        y_TO = gated_TK @ self.weight.flatten(0, 1)
        # Not `addmm`, in which TorchScript's `freeze` takes the added rows for one constant row.
        return y_TO if self.bias_EO is None else y_TO + gates_TE @ self.bias_EO

    def stacked(self) -> list[Tensor]:
        """Return the weight as (E, out, in), and the bias."""
        _, *bias = super().stacked()
        return [self.weight_EOI, *bias]

    def extra_repr(self) -> str:
        """Show the sizes as ``nn.Linear`` does."""
        return f"{self.num_experts} x ({self.in_features} -> {self.out_features})"


class StackedConv2d(StackedWeights):
    """E convolutions: one wide one if all experts see the same image, else one grouped by expert.

    :param convs: one ``nn.Conv2d`` per expert, alike but for their weights
    :raises TypeError: if they are grouped or dilated, or pad with anything but zeros
    """

    def __init__(self, convs: Sequence[nn.Conv2d]) -> None:
        super().__init__(convs)
        first = convs[0]
        if (first.groups, first.dilation, first.padding_mode) != (1, (1, 1), "zeros"):
            raise TypeError(
                "a stacked nn.Conv2d must have groups=1, dilation=1 and padding_mode='zeros', "
                f"got {first}"
            )
        self.stride = first.stride
        self.padding = first.padding
        self.function = partial(F.conv2d, stride=self.stride, padding=self.padding)
        self.weight_EOIhw = _stacked(convs, "weight")
        self.bias_EO = _stacked(convs, "bias")

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (T, C, height, width) or (T, E*C, height, width), the latter by expert."""
        bias = None if self.bias_EO is None else self.bias_EO.flatten()
        groups = 1 if x.shape[1] == self.weight_EOIhw.shape[2] else self.num_experts
        weight = self.weight_EOIhw.flatten(0, 1)
        return F.conv2d(x, weight, bias, self.stride, self.padding, groups=groups)


class StackedLayerNorm(StackedWeights):
    """E layer normalizations over the last axis.

    :param norms: one ``nn.LayerNorm`` with weight and bias per expert
    """

    def __init__(self, norms: Sequence[nn.LayerNorm]) -> None:
        super().__init__(norms)
        self.shape = norms[0].normalized_shape
        self.eps = norms[0].eps
        self.function = partial(F.layer_norm, normalized_shape=self.shape, eps=self.eps)
        self.weight_EH = _stacked(norms, "weight")
        self.bias_EH = _stacked(norms, "bias")

    def forward(self, x: Tensor) -> Tensor:
        """Normalize rows that all experts see, (T, H), or each expert's own, (E, M, H)."""
        normed = F.layer_norm(x, self.shape, eps=self.eps)
        return normed * self.weight_EH.unsqueeze(1) + self.bias_EH.unsqueeze(1)


class StackedBatchNorm(Stacked):
    """E normalizations over the batch as one over E*H features, with the same result.

    :param norms: one normalization of (T, H) inputs per expert; every tensor of it with an axis
        has H entries
    """

    def __init__(self, norms: Sequence[nn.Module]) -> None:
        super().__init__(len(norms))
        self.norm = copy.deepcopy(norms[0])
        for tensor, *own in zip(tensors_of(self.norm), *map(tensors_of, norms), strict=True):
            if tensor.dim() > 0:
                tensor.data = th.cat(own).detach()

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each expert's features over the rows."""
        x_ETH = x.expand(self.num_experts, *x.shape) if x.dim() == 2 else x
        x_TEH = x_ETH.transpose(0, 1)
        return self.norm(x_TEH.flatten(1)).view(x_TEH.shape).transpose(0, 1)

    def unstack(self, k: int) -> nn.Module:
        """Return expert ``k``'s normalization."""
        norm = copy.deepcopy(self.norm)
        for tensor in tensors_of(norm):
            if tensor.dim() > 0:
                tensor.data = tensor.data.chunk(self.num_experts)[k].clone()
        return norm

    def shares(self) -> list[Share]:
        """Return scales, shifts and running averages, H entries of each for every expert."""
        every = tensors_of(self.norm)
        return [Share(each, 0, self.num_experts) for each in every if each.dim() > 0]


class StackedEach(Stacked):
    """E modules of any other kind, which run one by one, each on its own expert's values.

    :param modules: one per expert; they take rows (M, H), or images (T, C, height, width)
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__(len(modules))
        self.each = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        """Apply each expert's module to its own values, or to the same rows."""
        if x.dim() == 4:
            images = x.chunk(self.num_experts, dim=1)
            return th.cat([act(image) for act, image in zip(self.each, images, strict=True)], 1)
        rows = [x] * self.num_experts if x.dim() == 2 else x.unbind()
        return th.stack([act(x_MH) for act, x_MH in zip(self.each, rows, strict=True)])

    def apart(self) -> list[Function]:
        """Return the modules."""
        return list(self.each)

    def unstack(self, k: int) -> nn.Module:
        """Return a copy of expert ``k``'s module."""
        return copy.deepcopy(self.each[k])

    def shares(self) -> list[Share]:
        """Return the weights and buffers of the modules, without those that several share."""
        holders = defaultdict(set)
        for k, module in enumerate(self.each):
            for each in tensors_of(module):
                holders[each].add(k)
        return [Share(each, min(ks), 1) for each, ks in holders.items() if len(ks) == 1]


class StackedImageEncoder(Stacked):
    """E image encoders on the same input: (T, F) to (E, T, K).

    :param encoders: one per expert
    """

    def __init__(self, encoders: Sequence[ImageEncoder]) -> None:
        super().__init__(len(encoders))
        self.convs = stack_all([encoder.convs for encoder in encoders])
        self.image_shape = encoders[0].image_shape

    def forward(self, x_TF: Tensor) -> Tensor:
        """Encode the same rows with every expert's convolutions."""
        image, rest = split_image(x_TF, self.image_shape)
        encoded_TK = self.convs(image).flatten(1)
        width = encoded_TK.shape[1] // self.num_experts
        encoded_ETK = encoded_TK.view(-1, self.num_experts, width).transpose(0, 1)
        if not rest.shape[1]:
            return encoded_ETK
        return th.cat([encoded_ETK, rest.expand(self.num_experts, *rest.shape)], -1)

    def apart(self) -> list[Function]:
        """Return each expert's encoder as a function."""
        convs = apart(self.convs, self.num_experts)
        return [partial(encode, convolve, self.image_shape) for convolve in convs]

    def unstack(self, k: int) -> ImageEncoder:
        """Return expert ``k``'s encoder."""
        return ImageEncoder(nn.Sequential(*unstack(self.convs, k)), self.image_shape)


class StackedResidual(Stacked):
    """E residual blocks.

    :param residuals: one per expert
    """

    def __init__(self, residuals: Sequence[Residual]) -> None:
        super().__init__(len(residuals))
        self.block = stack_all([residual.block for residual in residuals])

    def forward(self, x: Tensor) -> Tensor:
        """Add each expert's block to its own input, or to the same rows."""
        return x + self.block(x)

    def apart(self) -> list[Function]:
        """Return each expert's block as a function."""
        return [partial(_add, block) for block in apart(self.block, self.num_experts)]

    def unstack(self, k: int) -> Residual:
        """Return expert ``k``'s block."""
        return Residual(nn.Sequential(*unstack(self.block, k)))


STACKS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.Linear: StackedLinear,
    nn.Conv2d: StackedConv2d,
    Residual: StackedResidual,
    ImageEncoder: StackedImageEncoder,
}


def stack(modules: Sequence[nn.Module]) -> nn.Module:
    """Return one module that does the work of alike modules, one per expert, for all experts."""
    first = modules[0]
    if type(first) in STACKS:
        return STACKS[type(first)](modules)
    if type(first) is nn.LayerNorm and first.bias is not None and len(first.normalized_shape) == 1:
        return StackedLayerNorm(modules)  # type: ignore[arg-type]  # alike: all are LayerNorm
    if type(first) in (*POINTWISE, nn.MaxPool2d):
        return copy.deepcopy(first)
    # A StackedBatchNorm takes rows: normalizations of images run expert by expert.
    if hasattr(first, "num_features") and not isinstance(first, nn.BatchNorm2d | nn.BatchNorm3d):
        return StackedBatchNorm(modules)
    return StackedEach([copy.deepcopy(module) for module in modules])


def stack_all(networks: Sequence[nn.Module]) -> nn.Sequential:
    """Stack alike networks layer by layer."""
    columns = zip(*(flat(network) for network in networks), strict=True)
    return nn.Sequential(*(stack(same) for same in columns))


def flat(module: nn.Module) -> list[nn.Module]:
    """Return a network's layers in order, those of nested sequences too."""
    if isinstance(module, nn.Sequential):
        return [layer for each in module for layer in flat(each)]
    return [module]


def unstack(layers: Iterable[nn.Module], k: int) -> list[nn.Module]:
    """Return expert ``k``'s share of stacked layers, with copied weights."""
    return [m.unstack(k) if isinstance(m, Stacked) else copy.deepcopy(m) for m in layers]


def apart(layers: Iterable[nn.Module], num_experts: int) -> list[Function]:
    """Return each expert's share of stacked layers as one function of its own rows."""
    columns = [m.apart() if isinstance(m, Stacked) else [m] * num_experts for m in layers]
    return [partial(_chain, functions) for functions in zip(*columns, strict=True)]


def gated_sum(y_ETO: Tensor, gates_TE: Tensor) -> Tensor:
    """Sum over experts, weighted by the gates: (E, T, O) to (T, O)."""
    # An einsum would make a product of two tiny matrices of every row.
    return (y_ETO * gates_TE.t().unsqueeze(-1)).sum(0)


def _stacked(modules: Sequence[nn.Module], name: str) -> Any:
    """Return the modules' parameters of one name as one, (E, ...); None if they have none."""
    own = [getattr(module, name) for module in modules]
    return None if own[0] is None else nn.Parameter(th.stack(own).detach())


def _chain(functions: Sequence[Function], x: Tensor) -> Tensor:
    for function in functions:
        x = function(x)
    return x


def _add(block: Function, x: Tensor) -> Tensor:
    return x + block(x)
