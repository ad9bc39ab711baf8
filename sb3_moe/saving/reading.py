"""Open a file of :func:`sb3_moe.save`, which may come from anyone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecNormalize,
    VecTransposeImage,
    unwrap_vec_normalize,
)

from sb3_moe.generators import undone_on_failure
from sb3_moe.layers.checks import not_negative, yes_or_no
from sb3_moe.policies.start_scale import unscaled
from sb3_moe.saving import archive, strict_json
from sb3_moe.saving.archive import Archive
from sb3_moe.saving.arguments import decode_arguments, set_arguments, set_schedules
from sb3_moe.saving.classes import algorithm_of, names_asked, policy_of
from sb3_moe.saving.devices import check_device
from sb3_moe.saving.errors import UnsafeFileError, blaming
from sb3_moe.saving.hindsight import hindsight_buffer, is_hindsight
from sb3_moe.saving.memory import BuildingLimit, check_buffer
from sb3_moe.saving.networks import load_optimizers, load_weights
from sb3_moe.saving.normalizer import SavedNormalizer
from sb3_moe.saving.remembered import set_remembered
from sb3_moe.saving.replay import check_num_envs, load_replay_buffer
from sb3_moe.saving.spaces import decode_space
from sb3_moe.saving.tensors import TensorFile
from sb3_moe.saving.values import Decoder, checked_type
from sb3_moe.saving.writing import FORMAT, FORMAT_VERSION, MAX_JSON
from sb3_moe.vec_env.tasks import check_tasks, write_names
from sb3_moe.version import warn_of_another_major_version

_VERSION = re.compile(r"[\w.+!-]{1,60}", re.ASCII)
_KEYS = {
    "format", "format_version", "versions", "algorithm", "policy", "observation_space",
    "action_space", "arguments", "progress", "schedules", "optimizers", "replay_buffer",
    "normalizer", "tasks", "remembered",
}  # fmt: skip
# What files that were written before it was known lack.
_LATER: dict[str, Any] = {"tasks": None, "remembered": {}}
_ONLY_CLASSES = (
    "`custom_objects` must hold classes and functions, by the names that the file has for them"
)
_ELSEWHERE = "other arguments are changed on the model"

#: The most memory that a file may ask for unless more is allowed.
MAX_BYTES = 2**30


def load(
    path: str | Path,
    env: gym.Env[Any, Any] | VecEnv | str | None = None,
    *,
    device: th.device | str = "auto",
    custom_objects: Mapping[str, Any] | None = None,
    replay_buffer: bool = True,
    normalizer: bool = True,
    max_bytes: int = MAX_BYTES,
) -> Any:
    """Return the model of a file that :func:`sb3_moe.save` wrote, wherever it comes from.

    Nothing in the file is run, and nothing it names is imported but a fixed list of SB3's and our
    classes. Sizes are checked before memory is taken. If it fails, ``env`` and the random
    generators are as they were. As in SB3's ``load``, the generators are seeded with the model's
    seed, and episodes begin anew; those that a replay buffer has begun end where they are.

    >>> import tempfile, sb3_moe
    >>> from stable_baselines3 import PPO
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sb3_moe.save(PPO("MoeMlpPolicy", "CartPole-v1"), f"{folder}/agent.moe")
    ...     model = sb3_moe.load(f"{folder}/agent.moe", "CartPole-v1")
    >>> type(model).__name__, model.policy.get_expert("pi", 0) is not None
    ('PPO', True)

    :param path: the file, with its ending ``.moe`` or without
    :param env: to go on training with, or its id; None: for predictions, or for ``set_env`` (and a
        HerReplayBuffer's own ``set_env``). Statistics that normalise observations go with an
        environment: without one they are left out, with a
        :class:`sb3_moe.saving.NormalizerLeftOutWarning`
    :param device: as in SB3's ``load``
    :param custom_objects: the classes and functions of your own that the file names, by name
    :param replay_buffer: give the model the file's transitions, if there are any; else it begins
        with an empty buffer, for any number of environments
    :param normalizer: give the file's running statistics to the VecNormalize of ``env``, or wrap
        ``env`` in a new one
    :param max_bytes: the most that the file, and the buffers it asks for, may take
    :raises UnsafeFileError: if the file isn't whole, isn't such a file, or doesn't fit together
    :raises ValueError: if ``env`` has other spaces, other tasks or the same in another order,
        another kind of normaliser, or not as many environments as the replay buffer, or there is
        no such ``device``
    :raises TypeError: if an argument is of the wrong type
    """
    _check_given(device, custom_objects, replay_buffer, normalizer, max_bytes)
    path = archive.as_read(Path(path))
    if path.exists() and not path.is_file():
        raise UnsafeFileError(f"{path.name or path} can't be opened: it is no regular file")
    with undone_on_failure(), path.open("rb") as file:
        with blaming(path):
            entries = Archive(file, max_bytes)
            saved = _Saved(entries, custom_objects or {}, max_bytes, replay_buffer)
        saved.refuse_as_custom(custom_objects or {})
        warn_of_another_major_version(path.name, saved.version)
        venv, own = _environment(saved, env, normalizer)
        with blaming(path):
            model = saved.build(venv, device)
    if normalizer and env is None and saved.normalizer is not None:
        saved.normalizer.warn_if_left_out(path.name)
    if venv is not None:
        _set_environment(model, venv)
        if own is not None and saved.normalizer is not None:
            saved.normalizer.put_into(own)
    return model


def _check_given(
    device: object,
    custom_objects: object,
    replay_buffer: object,
    normalizer: object,
    max_bytes: object,
) -> None:
    """Raise unless these are what :func:`load` takes."""
    check_device(device)
    if not isinstance(custom_objects, Mapping | None):
        raise TypeError(f"`custom_objects` must be a dict by name, got {custom_objects!r}")
    for name, value in (custom_objects or {}).items():
        if not callable(value):
            raise TypeError(f"{_ONLY_CLASSES}, got {name!r}: {value!r}; {_ELSEWHERE}")
    yes_or_no("replay_buffer", replay_buffer)
    yes_or_no("normalizer", normalizer)
    not_negative("max_bytes", max_bytes)


def _set_environment(model: BaseAlgorithm, venv: VecEnv) -> None:
    model.set_env(venv)
    if model.seed is not None:
        venv.seed(model.seed)


def _environment(
    saved: _Saved, env: Any, normalizer: bool
) -> tuple[VecEnv | None, VecNormalize | None]:
    """Return the environments as the model takes them, and what is to get the statistics."""
    if env is None:
        return None, None
    wrap = saved.algorithm._wrap_env
    venv = wrap(maybe_make_env(env, verbose=0))
    check_tasks(saved.tasks, venv)
    if saved.rows is not None:
        check_num_envs(saved.rows, venv.num_envs)
    own = unwrap_vec_normalize(venv)
    if not normalizer or saved.normalizer is None:
        own = None
    elif own is None:
        # SB3 turns images last, behind the normaliser.
        inner = venv.venv if venv is not env and isinstance(venv, VecTransposeImage) else venv
        own = saved.normalizer.wrap(inner)
        venv = wrap(own)
    check_for_correct_spaces(venv, saved.observation_space, saved.action_space)
    if own is not None and saved.normalizer is not None:
        saved.normalizer.check(own)
    return venv, own


class _Saved:
    """What a file says, before any network is built.

    :param file: the archive
    :param custom_objects: the user's own classes and functions, by name
    :param max_bytes: the most that its buffers may take
    :param replay_buffer: whether its transitions are wanted
    :raises UnsafeFileError: if it says nothing that could be built
    """

    def __init__(
        self,
        file: Archive,
        custom_objects: Mapping[str, Any],
        max_bytes: int,
        replay_buffer: bool,
    ) -> None:
        self._file, self._max_bytes = file, max_bytes
        self._state = state = _read_state(file)
        size = file.size(archive.ARRAYS)
        if size > max_bytes // 16:
            raise UnsafeFileError(
                f"{archive.ARRAYS} is longer than {max_bytes // 16} bytes: pass "
                f"max_bytes={32 * size} if it is yours"
            )
        arrays = TensorFile(file, archive.ARRAYS).read()
        self._decoder = decoder = Decoder(
            {name: tensor.numpy() for name, tensor in arrays}, custom_objects
        )
        self.version: str = state["versions"]["sb3_moe"]
        self.algorithm = algorithm_of(state["algorithm"], custom_objects)
        self._policy = policy_of(self.algorithm, state["policy"], custom_objects)
        self.observation_space = decode_space(decoder, state["observation_space"])
        self.action_space = decode_space(decoder, state["action_space"])
        self.tasks: list[str] | None = state["tasks"]
        if self.tasks is not None:
            write_names(self.observation_space, self.tasks)
        self._values = decode_arguments(decoder, state)
        has_rows = replay_buffer and archive.REPLAY_BUFFER in file
        self.rows = TensorFile(file, archive.REPLAY_BUFFER) if has_rows else None
        self.normalizer = None
        if state["normalizer"] is not None:
            self.normalizer = SavedNormalizer(decoder, state["normalizer"])

    def refuse_as_custom(self, given: Mapping[str, Any]) -> None:
        """Raise TypeError for the algorithm's own arguments, which SB3's ``load`` would take.

        A class or function of its maker's may be called like one.
        """
        names = {name for part in self._values.values() for name in part} | {"policy_class"}
        own = names_asked(self._state)
        for name in given:
            if name in names and name not in own:
                raise TypeError(f"{_ONLY_CLASSES}, got {name!r}, an argument; {_ELSEWHERE}")

    def build(self, venv: VecEnv | None, device: th.device | str) -> Any:
        """Return the model, without environments.

        :param venv: the environments that it will have
        :param device: as in SB3's ``load``
        :raises UnsafeFileError: if parts of the file don't fit
        """
        model: Any = self.algorithm(
            policy=self._policy,
            env=None,
            device=device,
            _init_setup_model=False,
        )
        set_arguments(model, self._values)
        model.observation_space, model.action_space = self.observation_space, self.action_space
        model.n_envs = venv.num_envs if venv is not None else model.n_envs
        self._setup(model, venv)
        set_schedules(model, self._values)
        load_weights(model, TensorFile(self._file, archive.WEIGHTS))
        optimizers = TensorFile(self._file, archive.OPTIMIZERS)
        load_optimizers(model, self._decoder, self._state["optimizers"], optimizers)
        if self.rows is not None:
            load_replay_buffer(model.replay_buffer, self._state["replay_buffer"], self.rows)
        set_remembered(self._decoder, self._state["remembered"], model)
        self._decoder.check_all_used()
        if model.use_sde:
            model.policy.reset_noise()
        return model

    def _setup(self, model: Any, venv: VecEnv | None) -> None:
        buffer = check_buffer(model, self._max_bytes)
        weights = self._file.size(archive.WEIGHTS)
        with BuildingLimit(weights, self._max_bytes, besides=buffer), unscaled():
            if is_hindsight(model):
                model.replay_buffer = hindsight_buffer(model, venv)
            model._setup_model()


def _read_state(file: Archive) -> dict[str, Any]:
    if file.size(archive.MODEL) > MAX_JSON:
        raise UnsafeFileError(f"{archive.MODEL} is longer than {MAX_JSON} bytes")
    state = strict_json.loads(file.read(archive.MODEL), archive.MODEL)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UnsafeFileError("it is no sb3_moe model")
    if state.get("format_version") != FORMAT_VERSION:
        raise UnsafeFileError(
            f"it is of format version {str(state.get('format_version'))[:20]} and this sb3_moe "
            f"reads {FORMAT_VERSION}"
        )
    state = _LATER | state
    if set(state) != _KEYS:
        raise UnsafeFileError(f"{archive.MODEL} must have exactly the keys {sorted(_KEYS)}")
    if (state["replay_buffer"] is None) == (archive.REPLAY_BUFFER in file):
        raise UnsafeFileError("it has a replay buffer's rows or its state, but not both")
    versions = checked_type(dict, state["versions"], "versions")
    if not all(_VERSION.fullmatch(str(text)) for text in versions.values()):
        raise UnsafeFileError("its `versions` are none")
    checked_type(str, versions.get("sb3_moe"), "versions")
    if state["tasks"] is not None:
        for name in checked_type(list, state["tasks"], "tasks"):
            checked_type(str, name, "tasks")
    return state
