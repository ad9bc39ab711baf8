"""What SB3's own ``save`` leaves out of a run, as files: plain values as JSON, the rest pickled."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.saving import strict_json
from sb3_moe.saving.errors import UnsafeFileError, blaming
from sb3_moe.saving.loose import Loose
from sb3_moe.saving.tensors import TensorFile, from_numpy, write_tensors
from sb3_moe.saving.values import checked_type
from sb3_moe.saving.versions import versions
from sb3_moe.snapshot.carried import Carried
from sb3_moe.snapshot.env_state import SavedEnv
from sb3_moe.snapshot.manifest import Manifest
from sb3_moe.snapshot.space import decode_space_with_generator, encode_space_with_generator
from sb3_moe.snapshot.values import Reader, Writer

STATE, ARRAYS, ENV, REST = "state.json", "state.safetensors", "env.pkl", "rest.pkl"
FORMAT, FORMAT_VERSION = "sb3_moe run", 1


class RunState(NamedTuple):
    """What SB3's own ``save`` leaves out.

    :param algorithm: the model's class
    :param env: the training environment
    :param generators: of Python, numpy and torch
    :param action_space: with its generator, which DQN and warm-up draw from
    :param carried: what the next rollout takes over; None in a snapshot of version 0.1
    :param whole: False if training was ended in the middle of a rollout
    """

    algorithm: type[BaseAlgorithm] | None
    env: SavedEnv
    generators: dict[str, Any]
    action_space: Any
    carried: Carried | None = None
    whole: bool = True


#: More parts, by section and name, of which each is plain or not.
Sections = Mapping[str, Mapping[str, Any]]


def write_state(folder: Path, state: RunState, sections: Sections) -> None:
    """Write ``state.json``, its arrays, ``env.pkl``, and ``rest.pkl`` if there is a rest.

    :param folder: of the snapshot
    :param state: without an algorithm where the model is safe to open
    :param sections: more than that
    """
    assert state.carried is not None
    writer = Writer()
    parts, rest = _split(_with_carried(state.carried, sections), writer)
    if state.algorithm is not None:
        rest["algorithm"] = state.algorithm
    space, arrays = encode_space_with_generator(state.action_space, writer)
    if space is None:
        rest["action_space"] = state.action_space
    found = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": versions(),
        "whole": state.whole,
        "shares_space": state.carried.shares_space,
        "device": state.carried.device,
        "generators": writer.encode(state.generators),
        "action_space": space,
        "parts": parts,
    }
    (folder / STATE).write_bytes(strict_json.dumps(found))
    tensors = {
        name: each if isinstance(each, th.Tensor) else from_numpy(name, each)
        for name, each in (writer.arrays | arrays).items()
    }
    with (folder / ARRAYS).open("wb") as file:
        write_tensors(file, tensors)
    (folder / ENV).write_bytes(cloudpickle.dumps(state.env))
    if rest:
        (folder / REST).write_bytes(cloudpickle.dumps(rest))


def _split(sections: Sections, writer: Writer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the JSON of what is plain, and the rest under ``section/name``."""
    parts: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for section, values in sections.items():
        parts[section] = {}
        for name, value in values.items():
            try:
                parts[section][name] = writer.encode(value)
            except TypeError:
                rest[f"{section}/{name}"] = value
    return parts, rest


def _joined(parts: Sections, rest: Mapping[str, Any], reader: Reader) -> dict[str, dict[str, Any]]:
    """Return what :func:`_split` split."""
    sections = {
        section: {name: reader.decode(value) for name, value in values.items()}
        for section, values in parts.items()
    }
    for name, value in rest.items():
        section, _, own = name.partition("/")
        if own:
            sections[section][own] = value
    return sections


def _with_carried(carried: Carried, sections: Sections) -> dict[str, Mapping[str, Any]]:
    return {"last": carried.last, "sde": carried.sde, **sections}


def read_state(manifest: Manifest) -> tuple[RunState, dict[str, dict[str, Any]]]:
    """Return what :func:`write_state` wrote.

    :param manifest: of the snapshot; a pickle is read from bytes that it has compared
    :raises UnsafeFileError: if a file isn't what was written
    """
    env: SavedEnv = pickle.loads(manifest.read(ENV))
    rest: dict[str, Any] = pickle.loads(manifest.read(REST)) if REST in manifest else {}
    folder, text = manifest.check(ARRAYS).parent, manifest.read(STATE)
    with blaming(folder):
        found = _checked(strict_json.loads(text, STATE))
        arrays = dict(TensorFile(Loose(folder), ARRAYS).read())
        reader = Reader(arrays)
        sections = _joined(found["parts"], rest, reader)
        space = rest.get("action_space")
        if space is None:
            space = decode_space_with_generator(found["action_space"], reader, arrays)
        last, sde = sections.pop("last"), sections.pop("sde")
        carried = Carried(last, sde, found["shares_space"], found["device"])
        generators = reader.decode(found["generators"])
    algorithm = rest.get("algorithm")
    return RunState(algorithm, env, generators, space, carried, found["whole"]), sections


def _checked(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UnsafeFileError(f"{STATE} is of no snapshot")
    if found.get("format_version") != FORMAT_VERSION:
        raise UnsafeFileError(
            f"{STATE} is of format version {str(found.get('format_version'))[:20]} and this "
            f"sb3_moe reads {FORMAT_VERSION}"
        )
    for section in checked_type(dict, found["parts"], "parts").values():
        checked_type(dict, section, "parts")
    return found
