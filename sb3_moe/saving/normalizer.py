"""The running statistics of VecNormalize and PerTaskVecNormalize, without pickle."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from types import UnionType
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_moe.saving.errors import UnsafeFileError
from sb3_moe.saving.values import Decoder, Encoder, as_pythons, checked_type
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskMeanStd, PerTaskVecNormalize

_KINDS: dict[str, type[VecNormalize]] = {
    "VecNormalize": VecNormalize,
    "PerTaskVecNormalize": PerTaskVecNormalize,
}
_SETTINGS: dict[str, type[Any] | UnionType] = {
    "training": bool,
    "norm_obs": bool,
    "norm_reward": bool,
    "clip_obs": int | float,
    "clip_reward": int | float,
    "gamma": int | float,
    "epsilon": int | float,
    "norm_obs_keys": list | None,
}

# The statistics of returns; the others are of observations.
RETURN = "return"


def is_known(normalizer: VecNormalize) -> bool:
    """Say whether a file can hold a normaliser's statistics: unless it is of a user's own class."""
    return type(normalizer) in _KINDS.values()


def encode_normalizer(encoder: Encoder, normalizer: VecNormalize) -> dict[str, Any]:
    """Return the JSON of a normaliser's settings and statistics.

    :param encoder: keeps the arrays
    :param normalizer: as the model's ``get_vec_normalize_env`` returns it
    :raises ValueError: if it is of a class of the user's own
    """
    kind = type(normalizer).__name__
    if not is_known(normalizer):
        raise ValueError(f"`normalizer` must be False for a {kind}, got True")
    settings = {name: _plain(name, getattr(normalizer, name)) for name in _SETTINGS}
    if isinstance(normalizer, PerTaskVecNormalize):
        settings["task_id"] = normalizer.task_id_mode
    return {
        "class": kind,
        "settings": {name: encoder.encode(name, value) for name, value in settings.items()},
        "statistics": {
            name: [
                {
                    "mean": encoder.array("mean", s.mean),
                    "var": encoder.array("var", s.var),
                    "count": float(s.count),
                }
                for s in each
            ]
            for name, each in _statistics(normalizer).items()
        },
    }


def _plain(name: str, setting: Any) -> Any:
    """Return a setting as it is read: SB3 takes 0 for False, and any collection of keys."""
    if _SETTINGS[name] is bool:
        return bool(setting)
    return list(setting) if isinstance(setting, Collection) else setting


def _statistics(normalizer: Any) -> dict[str, list[RunningMeanStd]]:
    """Return SB3's running statistics by name: one each, or one for each task."""
    found = {RETURN: normalizer.ret_rms}
    if normalizer.norm_obs:
        obs = normalizer.obs_rms
        own = {f"obs/{key}": each for key, each in obs.items()} if isinstance(obs, dict) else None
        found |= {"obs": obs} if own is None else own
    return {
        name: each.tasks if isinstance(each, PerTaskMeanStd) else [each]
        for name, each in found.items()
    }


class NormalizerLeftOutWarning(UserWarning):
    """A model takes normalised observations, and was opened without what normalises them."""


class SavedNormalizer:
    """A file's normaliser, checked but for the shapes.

    :param decoder: has the arrays
    :param state: the JSON
    :raises UnsafeFileError: if it describes none
    """

    def __init__(self, decoder: Decoder, state: Any) -> None:
        if set(checked_type(dict, state, "normalizer")) != {"class", "settings", "statistics"}:
            raise UnsafeFileError("its normalizer must have class, settings and statistics")
        if state["class"] not in _KINDS:
            raise UnsafeFileError(f"its normalizer is {str(state['class'])[:60]!r}, which is none")
        self.kind = _KINDS[state["class"]]
        settings = checked_type(dict, state["settings"], "settings")
        known = _SETTINGS | ({"task_id": str} if self.kind is PerTaskVecNormalize else {})
        if set(settings) != set(known):
            raise UnsafeFileError(f"its normalizer must have the settings {sorted(known)}")
        self._settings = {
            name: as_pythons(decoder.decode(name, value)) for name, value in settings.items()
        }
        for name, value in self._settings.items():
            if not isinstance(value, known[name]):
                raise UnsafeFileError(f"its normalizer's `{name}` is of the wrong type")
        self._statistics = {
            name: [_decoded(decoder, one) for one in checked_type(list, each, name)]
            for name, each in checked_type(dict, state["statistics"], "statistics").items()
        }

    def wrap(self, venv: VecEnv) -> VecNormalize:
        """Return the environments behind a new normaliser with the file's settings.

        :raises ValueError: if the environments don't take it
        """
        try:
            return self.kind(venv, **self._settings)
        except ValueError as error:
            raise ValueError(
                f"`env` can't be put into the file's {self.kind.__name__} (normalizer=False does "
                f"without it): {error}"
            ) from error

    def check(self, normalizer: VecNormalize) -> None:
        """Compare kind, names and shapes with a normaliser that is to take the statistics.

        :raises ValueError: naming the first difference
        """
        if type(normalizer) is not self.kind:
            raise ValueError(
                f"`env` is normalised by {type(normalizer).__name__} and the file has the "
                f"statistics of {self.kind.__name__}; pass normalizer=False to keep your own"
            )
        own = _statistics(normalizer)
        if set(own) != set(self._statistics):
            raise ValueError(
                f"`env` normalises {sorted(own)} and the file has the statistics of "
                f"{sorted(self._statistics)}; pass normalizer=False to keep your own"
            )
        for name, each in own.items():
            shapes = [np.shape(one.mean) for one in each]
            saved = [mean.shape for mean, _, _ in self._statistics[name]]
            if shapes != saved:
                raise ValueError(
                    f"`env` needs statistics {name!r} of {shapes}, the file's: {saved}"
                )

    def warn_if_left_out(self, name: str) -> None:
        """Warn that nothing takes the statistics of observations, if there are any.

        :param name: of the file
        """
        if set(self._statistics) - {RETURN}:
            warnings.warn(
                f"{name} has the statistics by which observations were normalised, and without an "
                "`env` they are left out: give one, or normalizer=False if you normalise yourself",
                NormalizerLeftOutWarning,
                stacklevel=3,
            )

    def put_into(self, normalizer: Any) -> None:
        """Give a normaliser that was checked the file's statistics."""
        for name, each in _statistics(normalizer).items():
            for one, (mean, var, count) in zip(each, self._statistics[name], strict=True):
                one.mean, one.var, one.count = mean.copy(), var.copy(), count
        if isinstance(normalizer, PerTaskVecNormalize):
            obs = normalizer.obs_rms if normalizer.norm_obs else {}
            stacked = [*obs.values()] if isinstance(obs, dict) else [obs]
            for per_task in [normalizer.ret_rms, *stacked]:
                per_task._stack()


def _decoded(decoder: Decoder, state: Any) -> tuple[np.ndarray, np.ndarray, float]:
    if set(checked_type(dict, state, "statistics")) != {"mean", "var", "count"}:
        raise UnsafeFileError("its normalizer's statistics must have mean, var and count")
    mean, var = decoder.array(state["mean"]), decoder.array(state["var"])
    if mean.shape != var.shape or mean.dtype != np.float64 or var.dtype != np.float64:
        raise UnsafeFileError("its normalizer's means and variances must be float64 of one shape")
    return mean, var, float(state["count"])
