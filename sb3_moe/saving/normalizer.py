"""The running statistics of VecNormalize and PerTaskVecNormalize, without pickle."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_moe.saving.container import UnsafeFileError
from sb3_moe.vec_env.history import VecHistory
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskMeanStd, PerTaskVecNormalize

_KINDS: dict[str, type[VecNormalize]] = {
    "VecNormalize": VecNormalize,
    "PerTaskVecNormalize": PerTaskVecNormalize,
}
_SETTINGS = (
    *("training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon"),
    "norm_obs_keys",
)
# The statistics of returns; the others are of observations.
_RETURN = "return"


class NormalizerLeftOutWarning(UserWarning):
    """A model takes normalized observations, and was opened without what normalizes them."""


def is_known(normalizer: VecNormalize) -> bool:
    """Say whether a file can hold a normalizer's statistics: unless it is of a user's own class."""
    return type(normalizer) in _KINDS.values()


def described(normalizer: VecNormalize) -> dict[str, Any]:
    """Return a normalizer's class, settings and statistics as plain values and arrays.

    :param normalizer: as the model's ``get_vec_normalize_env`` returns it
    :raises ValueError: if it is of a class of the user's own
    """
    kind = type(normalizer).__name__
    if not is_known(normalizer):
        raise ValueError(f"`normalizer` must be False for a {kind}, got True")
    settings = {name: getattr(normalizer, name) for name in _SETTINGS}
    if isinstance(normalizer, PerTaskVecNormalize):
        settings["task_id"] = normalizer.task_id_mode
    statistics = {
        name: [(np.asarray(one.mean), np.asarray(one.var), float(one.count)) for one in each]
        for name, each in _statistics(normalizer).items()
    }
    sees_history = "history" in getattr(normalizer.observation_space, "spaces", {})
    return {
        "class": kind,
        "settings": settings,
        "statistics": statistics,
        "sees_history": sees_history,
    }


def _statistics(normalizer: Any) -> dict[str, list[RunningMeanStd]]:
    """Return SB3's running statistics by name: one each, or one for each task."""
    found = {_RETURN: normalizer.ret_rms}
    if normalizer.norm_obs:
        obs = normalizer.obs_rms
        own = {f"obs/{key}": each for key, each in obs.items()} if isinstance(obs, dict) else None
        found |= {"obs": obs} if own is None else own
    return {
        name: each.tasks if isinstance(each, PerTaskMeanStd) else [each]
        for name, each in found.items()
    }


class SavedNormalizer:
    """A file's normalizer.

    :param saved: of :func:`described`
    :raises UnsafeFileError: if it is none
    """

    def __init__(self, saved: dict[str, Any]) -> None:
        if saved["class"] not in _KINDS:
            raise UnsafeFileError(f"its normalizer is {saved['class']!r:.60}, which is none")
        self._kind = _KINDS[saved["class"]]
        self._settings: dict[str, Any] = saved["settings"]
        self._sees_history = bool(saved["sees_history"])
        self._statistics: dict[str, list[Any]] = saved["statistics"]
        for mean, var, count in (one for each in self._statistics.values() for one in each):
            if not mean.dtype == var.dtype == np.float64 or mean.shape != var.shape or count < 0:
                raise UnsafeFileError("its normalizer's statistics must be float64 of one shape")

    def wrap(self, venv: VecEnv) -> VecEnv:
        """Put a new normalizer with the file's settings where the old one was."""
        if isinstance(venv, VecHistory) and not self._sees_history:
            return VecHistory(self.wrap(venv.venv), venv.length)
        return self._kind(venv, **self._settings)

    def check(self, normalizer: VecNormalize) -> None:
        """Compare kind, names and shapes with a normalizer that is to take the statistics.

        :raises ValueError: if they differ
        """
        own = {
            name: [each.mean.shape for each in all_]
            for name, all_ in _statistics(normalizer).items()
        }
        saved = {name: [mean.shape for mean, *_ in each] for name, each in self._statistics.items()}
        if type(normalizer) is not self._kind or own != saved:
            raise ValueError(
                f"`env` is normalized by {type(normalizer).__name__} with statistics of {own}, and "
                f"the file has those of {self._kind.__name__}, {saved}; pass normalizer=False to "
                "keep your own"
            )

    def warn_if_left_out(self, name: str) -> None:
        """Warn that nothing takes the statistics of observations, if there are any.

        :param name: of the file
        """
        if set(self._statistics) - {_RETURN}:
            warnings.warn(
                f"{name} has the statistics by which observations were normalized, and without an "
                "`env` they are left out: give one, or normalizer=False if you normalize yourself",
                NormalizerLeftOutWarning,
                stacklevel=3,
            )

    def put_into(self, normalizer: Any) -> None:
        """Give a normalizer that was checked the file's statistics."""
        for name, each in _statistics(normalizer).items():
            for one, (mean, var, count) in zip(each, self._statistics[name], strict=True):
                one.mean, one.var, one.count = mean.copy(), var.copy(), count
        if isinstance(normalizer, PerTaskVecNormalize):
            obs = normalizer.obs_rms if normalizer.norm_obs else {}
            for per_task in [
                normalizer.ret_rms,
                *(obs.values() if isinstance(obs, dict) else [obs]),
            ]:
                per_task._stack()
