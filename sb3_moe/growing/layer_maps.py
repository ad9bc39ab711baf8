"""Which numbers of plain layers come from which others, in networks that run one behind the other.

Maps are made while tensors show the places of their numbers, see :meth:`CopyMap.made`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim, get_flattened_obs_dim
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from torch import nn

from sb3_moe.growing.copy_map import CopyMap, tensors_of
from sb3_moe.layers.activations import is_norm
from sb3_moe.layers.encoder import ImageEncoder, Residual
from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.policies.moe_network import MoENetwork
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import Network, kind_of, networks_of
from sb3_moe.vec_env.task_ids import TASK_KEY, one_hot_behind

# What reads a linear layer's, or an LSTM's, input.
READS = ("weight", "weight_ih_l0")


class LayerMap(CopyMap):
    """A map that is made layer by layer."""

    def layer(
        self,
        new: nn.Module,
        old: nn.Module,
        columns: th.Tensor | None = None,
        scale: float = 1.0,
        gate: float = 1.0,
    ) -> None:
        """Copy a layer, whose units become the first of the new one.

        :param columns: where each old input is found; None: where it was
        :param scale: how many times larger the numbers are
        :param gate: how many times larger their gradient is
        """
        mine, theirs = named_tensors(new), named_tensors(old)
        for name, into in mine.items():
            source = theirs[name]
            if source.dim() == 2 and name in READS:
                into = into[: len(source)]
                at = th.arange(source.shape[1]) if columns is None else columns
                if len(at) < into.shape[1]:
                    self.fill(into, 0.0)
                into = into[:, at[at < into.shape[1]]]  # where some don't fit, `copy` says so
            elif source.dim() == 1:
                into = into[: len(source)] if columns is None or not is_norm(new) else into[columns]
            self.copy(into, source, scale, gate)

    def in_order(
        self,
        new: Sequence[nn.Module],
        old: Sequence[nn.Module],
        columns: th.Tensor | None,
        gate: float = 1.0,
    ) -> th.Tensor | None:
        """Copy layers that run one behind the other.

        :param columns: where the first linear layer finds each of its old inputs
        :param gate: as of :meth:`layer`
        :return: where the layer behind them does
        :raises ValueError: if they are of other kinds
        """
        kinds = [
            [(isinstance(m, nn.Linear), *named_tensors(m)) for m in each] for each in (new, old)
        ]
        if kinds[0] != kinds[1]:
            raise ValueError(
                "`model` must have layers as SB3 has, with an activation behind each hidden layer, "
                f"in the new model's order: {kinds[0]}, got {kinds[1]}"
            )
        for mine, theirs in zip(new, old, strict=True):
            self.layer(mine, theirs, columns, gate=gate)
            columns = None if isinstance(mine, nn.Linear) else columns
        return columns

    def networks(
        self, new: Any, old: Any, cure: str = ""
    ) -> Iterator[tuple[Network, Network, th.Tensor | None]]:
        """Copy all that is no hidden layer and no head, and yield each pair of networks.

        With each comes where its first layer finds each input of the other's; None: where it was.

        :param new: the new policy
        :param old: the other
        :param cure: what to do about gSDE's noise for a latent of another width; else it stays new
        :raises ValueError: if there is such noise, and a cure
        """
        ours, theirs = networks_of(new), networks_of(old)
        for mine, other in zip(ours.networks(), theirs.networks(), strict=True):
            at = columns(new, mine, old, other)
            if own := tensors_of(mine.extractor):
                self._alike(own, tensors_of(other.extractor))
            if mine.memory is not None and other.memory is not None:
                self.layer(mine.memory, other.memory, at)
            yield mine, other, None if mine.memory is not None else at
        known = theirs.loose()
        for name, loose in ours.loose().items():
            if all(a.shape == b.shape for a, b in zip(loose, known[name], strict=True)):
                self._alike(loose, known[name])
            elif cure:
                raise ValueError(
                    f"gSDE's noise, {name}, is for a latent of another width than the dense "
                    f"model has: {cure}"
                )

    def _alike(self, new: Sequence[th.Tensor], old: Sequence[th.Tensor]) -> None:
        for mine, theirs in zip(new, old, strict=True):
            self.copy(mine, theirs)


def named_tensors(module: nn.Module) -> dict[str, th.Tensor]:
    """Return a module's parameters and buffers by name."""
    return dict([*module.named_parameters(), *module.named_buffers()])


def parts_of(*modules: nn.Module) -> Iterator[nn.Module]:
    """Yield layers and mixtures of experts in the order in which they run."""
    for module in modules:
        match module:
            case MoENetwork():
                encoder = [] if module.encoder is None else [module.encoder]
                yield from parts_of(*encoder, *(module.norms or ()), *module.blocks)
            case nn.Sequential():
                yield from parts_of(*module)
            case ImageEncoder():
                yield from parts_of(module.convs)
            case Residual():
                yield from parts_of(module.block)
            case _:
                yield module


def leaves_of(*modules: nn.Module) -> list[nn.Module]:
    """Return the layers that hold numbers, in the order in which they run."""
    return [part for part in parts_of(*modules) if tensors_of(part)]


# Columns.


def columns(new: Any, mine: Network, old: Any, other: Network) -> th.Tensor | None:
    """Return where the first layer of a network finds each input of another's.

    :param new: the policy of the one
    :param mine: the one
    :param old: the policy of the other
    :param other: the other
    :return: None: where it was
    :raises ValueError: if the one doesn't see all that the other does
    """
    ours, theirs = _inputs(new, mine), _inputs(old, other)
    if encodes(mine):  # its encoder makes of the image what the other's extractor makes of it
        tasks = len(ours) - _width(mine.extractor)
        ours = list(range(_width(other.extractor) + tasks))
    if missing := set(theirs) - set(ours):
        raise ValueError(
            "`task_input` must let the new layers see all that the dense ones see: "
            f"{len(theirs)} features, got {len(theirs) - len(missing)} of them"
        )
    if ours == theirs:
        return None
    found = [ours.index(each) for each in theirs]
    if kind_of(mine.name) == "qf" and networks_of(new).critic_optimizer() is not None:
        # Critics of actions see these behind the features.
        found += range(len(ours), len(ours) + get_action_dim(new.action_space))
    return th.tensor(found)


def encodes(network: Network) -> bool:
    """Say whether a network holds the encoder of its images."""
    extractor = network.extractor
    return isinstance(extractor, TaskExtractor) and extractor.image_shape is not None


def _width(extractor: Any) -> int:
    """Return how many features there are besides the task id."""
    return int(extractor.features_dim) - one_hot_behind(extractor)


def _inputs(policy: Any, network: Network) -> list[int]:
    """Name the features that the first layer of a network reads.

    Where observations are only flattened, a feature's name is the place of what it shows, the task
    id behind all else: the extractor is given the places in place of an observation. Else features
    are numbered.
    """
    extractor: Any = network.extractor
    names = list(range(extractor.features_dim))
    is_flat = isinstance(extractor, TaskExtractor | CombinedExtractor | FlattenExtractor)
    if is_flat and not tensors_of(extractor):
        found = extractor(_places_seen(policy.observation_space)).flatten().long().tolist()
        if len(set(found)) == len(names):  # a one-hot made of an image's planes is none of these
            names = found
    hidden = (
        isinstance(policy, MoEPolicy) and not policy.moe[kind_of(network.name)].experts_see_task
    )
    return names[: _width(extractor)] if hidden else names


def _places_seen(space: spaces.Space[Any]) -> Any:
    """Return an observation, as SB3 preprocesses it, in which each number is its place."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    found, start = {}, 0
    for key in sorted(parts, key=lambda key: key == TASK_KEY):
        part = parts[key]
        size = get_flattened_obs_dim(part)
        places = th.arange(start, start + size, dtype=th.float32)
        found[key] = places.view(1, *(part.shape if isinstance(part, spaces.Box) else (-1,)))
        start += size
    return found if isinstance(space, spaces.Dict) else found[""]
