"""Where penalties draw weights to, once experts have joined, left or become one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy.typing as npt
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.growing.inheritance import Inherited, Origin
from sb3_moe.growing.leaves import Held

# By the name of the parameter.
Arrays = Mapping[str, npt.NDArray[Any]]
Names = Mapping[th.Tensor, str]


class Kept(NamedTuple):
    """Arrays that a model keeps for a penalty, one for each parameter.

    :param place: the dict that holds them
    :param key: of it
    :param are_strengths: whether they say how strongly weights are drawn, rather than where
    """

    place: dict[str, Any]
    key: str
    are_strengths: bool = False


def kept_for_penalties(model: BaseAlgorithm) -> Iterator[Kept]:
    """Yield what L2InitCallback, and those that remember the end of a task, keep on a model."""
    if "initial_weights" in vars(model):
        yield Kept(vars(model), "initial_weights")
    for anchors in vars(model).get("anchors", {}).values():
        yield Kept(anchors, "weights")
        yield Kept(anchors, "strengths", are_strengths=True)


def carried(
    kept: Kept, parts: Sequence[Inherited], before: Names, after: Names, gone: Collection[str]
) -> dict[str, npt.NDArray[Any]]:
    """Return arrays for a model with other experts.

    An expert that stays is drawn to where it was drawn before, a copy to where its original is,
    and one made of several to the mean of theirs, as its weights are. One that starts anew starts
    where it is now; neither it nor a copy is held by tasks that ended before it joined.

    :param kept: what there is; it stays as it is
    :param parts: of the new parameters
    :param before: names of all parameters there are
    :param after: and will be
    :param gone: names of those that go
    """
    old: Arrays = kept.place[kept.key]
    found = {name: array for name, array in old.items() if name not in gone}
    if not old:  # nothing is drawn anywhere yet
        return found
    by_tensor: dict[th.Tensor, list[Inherited]] = {}
    for part in parts:
        if part.into.stored in after:
            by_tensor.setdefault(part.into.stored, []).append(part)
    known = {
        tensor: th.as_tensor(old[name])
        for tensor, name in before.items()
        if name in old and old[name].shape == tensor.shape
    }
    for tensor, own in by_tensor.items():
        own = [part for part in own if not _starts_anew(part, kept.are_strengths)]
        if all(origin.held.stored in known for part in own for origin in part.origins):
            array = tensor.detach().cpu().clone()
            if kept.are_strengths:
                array.zero_()
            for part in own:
                here = _at(part, array, known)
                here.write()
                # In weights that are scaled as much the same penalty is weaker.
                here.into.value.mul_(part.scale**-2 if kept.are_strengths else part.scale)
            found[after[tensor]] = array.numpy()
    return found


def _starts_anew(part: Inherited, are_strengths: bool) -> bool:
    is_copy = part.heir is not None and not part.heir.stays
    return part.is_new or (are_strengths and is_copy)


def _at(part: Inherited, array: th.Tensor, known: Mapping[th.Tensor, th.Tensor]) -> Inherited:
    """Return the same part of arrays that are shaped like the parameters."""
    origins = [
        Origin(Held(known[origin.held.stored], origin.held.view), origin.weight)
        for origin in part.origins
    ]
    return replace(part, into=Held(array, part.into.view), origins=origins)
