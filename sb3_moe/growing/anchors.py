"""Where penalties draw weights to, once experts have joined, left or become one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy.typing as npt
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.growing.copying import Map, copy_along
from sb3_moe.growing.numbers import Numbers

Arrays = dict[str, npt.NDArray[Any]]


class Kept(NamedTuple):
    """Arrays that a model keeps for a penalty, by the names of its parameters.

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


def carried_anchors(
    kept: Kept,
    entries: Map,
    new: Numbers,
    old: Numbers,
    before: Mapping[th.Tensor, str],
    after: Mapping[th.Tensor, str],
    gone: Collection[str],
) -> Arrays:
    """Return arrays for a model with other experts.

    An expert that stays is drawn to where it was drawn before, a copy to where its original is,
    and one made of several to the mean of theirs, as its weights are. One that starts anew starts
    where it is now; neither it nor a copy is held by tasks that ended before it joined.

    :param kept: what there is; it stays as it is
    :param entries: the map
    :param before: names of all parameters there are
    :param after: names of those that come
    :param gone: names of those that go
    """
    arrays: Arrays = kept.place[kept.key]
    found = {name: array for name, array in arrays.items() if name not in gone}
    if not arrays:  # nothing is drawn anywhere yet
        return found

    def known(tensor: th.Tensor) -> th.Tensor | None:
        array = arrays.get(before.get(tensor, ""))
        fits = array is not None and array.shape == tensor.shape  # an older file's may not
        return th.as_tensor(array) if fits else None

    row = new.row(th.zeros_like if kept.are_strengths else lambda tensor: tensor)
    held = [
        entry
        for entry in entries
        if entry.origins and not (entry.joins if kept.are_strengths else entry.learns_anew)
    ]
    copy_along(held, row, old.row(known))
    for entry in held:
        # In weights that are scaled as much the same penalty is weaker.
        row[entry.into] *= entry.scale**-2 if kept.are_strengths else entry.scale
    for tensor, name in after.items():
        values = row[new.places(tensor)]
        if not values.isnan().any():
            found[name] = values.to(tensor.dtype).numpy()
    return found
