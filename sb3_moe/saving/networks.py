"""Weights and optimisers as tensors by name, each tensor once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from torch import nn

from sb3_moe.networks import uncompiled
from sb3_moe.networks.masks import MASKS, SEED, UPDATES, masks_in, set_masks
from sb3_moe.optimizers import EXPERTS
from sb3_moe.saving.archive import OPTIMIZERS
from sb3_moe.saving.errors import UnsafeFileError
from sb3_moe.saving.tensors import Form, TensorFile, form_of
from sb3_moe.saving.values import Decoder, Encoder, as_pythons, checked_type

# What one optimiser's groups have and another's lack, a value of its kind: where a rate began,
# and what a sparse network's masks go by.
_MAY_LACK: dict[str, Any] = {"initial_lr": 0.0, UPDATES: 0, SEED: 0}
# What they have and a file doesn't: parameters, masks, and where experts are.
_NOT_SAVED = ("params", MASKS, EXPERTS)


def weights_of(model: BaseAlgorithm) -> dict[str, th.Tensor]:
    """Return every parameter, buffer and other variable that SB3 saves; shared ones once.

    :raises ValueError: if a module keeps something else in its state
    """
    found: dict[str, th.Tensor] = {}
    seen: set[tuple[Any, ...]] = set()
    for name, tensor in _named_tensors(model):
        if not isinstance(tensor, th.Tensor):
            raise ValueError(f"{name} can't be saved: it is no tensor but {type(tensor)}")
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() == 0 or place not in seen:
            seen.add(place)
            found[name] = tensor.detach()
    return found


def _named_tensors(model: BaseAlgorithm) -> Iterator[tuple[str, Any]]:
    names, variables = model._get_torch_save_params()
    for name in names:
        if isinstance(part := _part(model, name), nn.Module):
            for key, tensor in part.state_dict().items():
                yield f"{name}/{key}", tensor
    for name in variables:
        if (variable := recursive_getattr(model, name)) is not None:
            yield name, variable


def _part(model: BaseAlgorithm, name: str) -> Any:
    # As SB3's get_parameters.
    return uncompiled(recursive_getattr(model, name))


def optimizers_of(model: BaseAlgorithm) -> dict[str, th.optim.Optimizer]:
    """Return every optimiser that SB3 saves, by name."""
    parts = {name: _part(model, name) for name in model._get_torch_save_params()[0]}
    return {name: part for name, part in parts.items() if isinstance(part, th.optim.Optimizer)}


def load_weights(model: BaseAlgorithm, file: TensorFile) -> None:
    """Write a file's weights into a model that is built.

    :raises UnsafeFileError: if names, dtypes or shapes differ
    """
    own = weights_of(model)
    with th.no_grad():
        for name, tensor in file.read_as({key: form_of(each) for key, each in own.items()}):
            own[name].copy_(tensor)


# Optimisers.


def encode_optimizers(
    encoder: Encoder, model: BaseAlgorithm
) -> tuple[dict[str, Any], dict[str, th.Tensor]]:
    """Return the JSON of every optimiser, and the tensors of their states."""
    found, tensors = {}, {}
    for name, optimizer in optimizers_of(model).items():
        state = optimizer.state_dict()
        groups = [
            encoder.encode(name, {k: v for k, v in group.items() if k not in _NOT_SAVED})
            for group in state["param_groups"]
        ]
        values = []
        for index, entries in state["state"].items():
            for key, value in entries.items():
                if isinstance(value, th.Tensor):
                    tensors[f"{name}/{index}/{key}"] = value
                else:
                    values.append([index, key, encoder.encode(key, value)])
        for index, mask in enumerate(_masks_of(optimizer)):
            if mask is not None:
                tensors[f"{name}/{index}/{MASKS}"] = mask
        found[name] = {"groups": groups, "values": values}
    return found, tensors


def load_optimizers(model: BaseAlgorithm, decoder: Decoder, state: Any, file: TensorFile) -> None:
    """Write a file's states into the optimisers of a model that is built.

    :raises UnsafeFileError: if they are of other optimisers or parameters
    """
    own = optimizers_of(model)
    states = decode_optimizers(own, decoder, state, file.forms)
    for name, tensor in file.read():
        optimizer, index, key = name.split("/", 2)
        states[optimizer]["state"].setdefault(int(index), {})[key] = tensor
    for name, optimizer_state in states.items():
        masks = _taken_masks(optimizer_state["state"])
        own[name].load_state_dict(optimizer_state)
        if masks:
            parameters = _parameters(own[name])
            at = {parameters[i]: mask.to(parameters[i].device) for i, mask in masks.items()}
            set_masks(own[name], at)


def decode_optimizers(
    own: Mapping[str, th.optim.Optimizer],
    decoder: Decoder,
    state: Any,
    forms: Mapping[str, Form],
) -> dict[str, dict[str, Any]]:
    """Return a file's states, but for the tensors, once all fit the optimisers.

    :param own: the optimisers, by name
    :param decoder: has the arrays
    :param state: the JSON
    :param forms: of the tensors, by name
    :raises UnsafeFileError: if they are of other optimisers or parameters
    """
    if set(checked_type(dict, state, "optimizers")) != set(own):
        raise UnsafeFileError(f"it has the optimisers {sorted(state)}, not {sorted(own)}")
    states = {name: _decoded_state(name, own[name], decoder, state[name]) for name in own}
    kept = {
        name: {index: set(entries) for index, entries in each["state"].items()}
        for name, each in states.items()
    }
    for name, form in forms.items():
        _check_form(name, form, own)
        optimizer, index, key = name.split("/", 2)
        kept[optimizer].setdefault(int(index), set()).add(key)
    for name, keys in kept.items():
        _check_whole(name, keys.values())
    return states


def _masks_of(optimizer: th.optim.Optimizer) -> list[th.Tensor | None]:
    masks = masks_in(optimizer)
    return [masks.get(parameter) for parameter in _parameters(optimizer)]


def _taken_masks(state: dict[int, dict[str, Any]]) -> dict[int, th.Tensor]:
    """Take the masks out of a file's states: they lie in an optimiser's groups."""
    masks = {index: entries.pop(MASKS) for index, entries in state.items() if MASKS in entries}
    for index in masks:
        if not state[index]:
            del state[index]  # saved before the first step
    return masks


def _check_form(name: str, form: Form, own: Mapping[str, th.optim.Optimizer]) -> None:
    """Refuse a tensor that is of no parameter, or neither shaped like it nor a single number."""
    optimizer, _, rest = name.partition("/")
    index = rest.partition("/")[0]
    if optimizer not in own or not index.isdecimal():
        raise UnsafeFileError(f"{OPTIMIZERS} has {name[:60]!r}, which no optimiser has")
    parameter = _parameter(own[optimizer], int(index), name)
    key = rest.partition("/")[2]
    if key == MASKS and (form.dtype, form.shape) != (th.bool, parameter.shape):
        raise UnsafeFileError(
            f"{OPTIMIZERS} has {name!r} as {form.dtype} {list(form.shape)}, which is no mask of a "
            f"parameter of {list(parameter.shape)}"
        )
    counts = key == "step" and len(form.shape) == 1  # whose length the optimizer checks
    shaped = counts or form.shape == parameter.shape
    if not shaped and th.Size(form.shape).numel() != 1:
        raise UnsafeFileError(
            f"{OPTIMIZERS} has {name!r} as {list(form.shape)} for a parameter of "
            f"{list(parameter.shape)}"
        )


def _decoded_state(
    name: str, optimizer: th.optim.Optimizer, decoder: Decoder, state: Any
) -> dict[str, Any]:
    if set(checked_type(dict, state, name)) != {"groups", "values"}:
        raise UnsafeFileError(f"its optimiser {name} must have groups and values")
    own = optimizer.state_dict()["param_groups"]
    found = checked_type(list, state["groups"], name)
    if len(found) != len(own):
        raise UnsafeFileError(f"its optimiser {name} has {len(found)} groups, not {len(own)}")
    groups = [
        _decoded_group(name, decoder.decode(name, each), known)
        for each, known in zip(found, own, strict=True)
    ]
    values: dict[int, dict[str, Any]] = {}
    for index, key, value in checked_type(list, state["values"], name):
        _parameter(optimizer, checked_type(int, index, name), name)
        values.setdefault(index, {})[checked_type(str, key, name)] = decoder.decode(key, value)
    return {"state": values, "param_groups": groups}


def _decoded_group(name: str, group: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: as_pythons(each) for key, each in checked_type(dict, group, name).items()}
    if {*given} - {*known, *_MAY_LACK}:
        raise UnsafeFileError(f"its optimiser {name} has other settings than the model's")
    for key, value in given.items():
        if not _is_like(value, as_pythons(known.get(key, _MAY_LACK.get(key)))):
            raise UnsafeFileError(f"its optimiser {name} has a `{key[:60]}` of the wrong type")
    # What torch's optimisers know since the file was written has its default.
    newer = {key: value for key, value in known.items() if key not in _MAY_LACK}
    return newer | given | {"params": known["params"]}


def _is_like(value: Any, known: Any) -> bool:
    if isinstance(known, tuple | list):  # some optimisers keep a list that they were given
        return isinstance(value, type(known)) and len(value) == len(known)
    if isinstance(known, float | int) and not isinstance(known, bool):
        return isinstance(value, float | int) and not isinstance(value, bool)
    return value is None or isinstance(value, bool)


def _parameters(optimizer: th.optim.Optimizer) -> list[th.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _parameter(optimizer: th.optim.Optimizer, index: int, name: str) -> th.Tensor:
    parameters = _parameters(optimizer)
    if not 0 <= index < len(parameters):
        raise UnsafeFileError(f"{OPTIMIZERS} has {name[:60]!r}, a parameter that isn't there")
    found: th.Tensor = parameters[index]
    return found


def _check_whole(name: str, kept: Iterable[set[str]]) -> None:
    # A parameter that has only a mask was saved before the first step.
    if len({frozenset(keys - {MASKS}) for keys in kept if keys != {MASKS}}) > 1:
        raise UnsafeFileError(f"its optimiser {name} lacks a part of some parameter's state")
