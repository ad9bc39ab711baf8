"""The model of a snapshot: a file that is safe to open, or SB3's zip where that can't hold it."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_moe.saving import archive
from sb3_moe.saving.arguments import PROGRESS, SCHEDULES, argument_names
from sb3_moe.saving.classes import algorithm_name, is_custom
from sb3_moe.saving.reading import load
from sb3_moe.saving.remembered import REMEMBERED
from sb3_moe.saving.writing import entries_of
from sb3_moe.snapshot.manifest import DamagedError, Manifest
from sb3_moe.snapshot.noise import is_plain

SAFE, PICKLED = "model.moe", "model.zip"
# What `_setup_model` makes again, or is kept apart.
_MADE_AGAIN = frozenset(
    {
        "policy_class",
        "observation_space",
        "action_space",
        "action_noise",
        "batch_norm_stats",
        "batch_norm_stats_target",
        "actor_batch_norm_stats",
        "actor_batch_norm_stats_target",
        "critic_batch_norm_stats",
        "critic_batch_norm_stats_target",
    }
)


def write_model(model: BaseAlgorithm, folder: Path, *, normalizer: bool = False) -> bool:
    """Write a model so that nothing in it can run code, where that can be.

    Classes of the user's own are code, and so are their functions: a model that has some is pickled
    as SB3 does.

    :param model: of any kind
    :param folder: gets ``model.moe`` or ``model.zip``
    :param normalizer: put the statistics of its VecNormalize, if that is none of the user's own,
        into ``model.moe``
    :return: whether it is safe to open
    """
    normalised_by = model.get_vec_normalize_env() if normalizer else None
    entries = _safe_entries(model, normalised_by)
    if entries is None and normalised_by is not None:
        entries = _safe_entries(model, None)
    if entries is not None:
        with (folder / SAFE).open("wb") as file:
            archive.write_entries(file, entries)
        return True
    # SB3 leaves a file open that it opened itself, if it fails.
    with (folder / PICKLED).open("wb") as file:
        model.save(file)
    return False


def _safe_entries(model: BaseAlgorithm, normalizer: VecNormalize | None) -> dict[str, bytes] | None:
    if is_custom(algorithm_name(type(model))) or not is_plain(model):
        return None
    try:
        entries, own = entries_of(model, replay_buffer=False, normalizer=normalizer)
    except ValueError:  # as `sb3_moe.save` says of what it doesn't take
        return None
    return None if own else entries


def read_model(
    manifest: Manifest, algorithm: type[BaseAlgorithm] | None, env: VecEnv, device: th.device | str
) -> Any:
    """Return the model of a snapshot.

    :param manifest: of the snapshot
    :param algorithm: the class of one that was pickled
    :param env: to go on with
    :param device: as in SB3's ``load``
    :raises DamagedError: if there is none, or it isn't what was written
    """
    if SAFE in manifest:
        path = manifest.check(SAFE)
        # One's own model may be of any size.
        return load(path, env, device=device, normalizer=False, max_bytes=sys.maxsize)
    if algorithm is None or PICKLED not in manifest:
        raise DamagedError(f"{manifest.folder.name} has neither {SAFE} nor {PICKLED}")
    return load_pickled(algorithm, io.BytesIO(manifest.read(PICKLED)), env, device)


def load_pickled(
    algorithm: type[BaseAlgorithm], file: Any, env: VecEnv, device: th.device | str
) -> Any:
    """Return the model of SB3's zip, which can run code.

    :param algorithm: its class
    :param file: path, or open file
    """
    with warnings.catch_warnings():
        # SB3 takes the class that it chose itself, with its arguments, for one of the user's.
        warnings.filterwarnings("ignore", r"`n_steps=\d+` is ignored .*\(`NStepReplayBuffer`\)")
        return algorithm.load(file, env=env, device=device, force_reset=False)


def attributes_of(model: BaseAlgorithm) -> dict[str, Any]:
    """Return what SB3's zip would hold and ``model.moe`` doesn't, such as the log's episodes.

    :param model: one that is safe to write
    """
    names, variables = model._get_torch_save_params()
    known = {
        *argument_names(model),
        *PROGRESS,
        *SCHEDULES,
        *REMEMBERED,
        *_MADE_AGAIN,
        *model._excluded_save_params(),
        *(name.partition(".")[0] for name in (*names, *variables)),
    }
    return {
        name: value
        for name, value in vars(model).items()
        if name not in known and not name.startswith("_last_")
    }
