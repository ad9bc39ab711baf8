"""Train one run of a study in its folder."""

from __future__ import annotations

import pickle
import tempfile
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat, Logger
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_moe.callbacks import (
    MultiTaskEvalCallback,
    PlasticityCallback,
    RoutingCallback,
    SnapshotCallback,
    TaskRolloutCallback,
)
from sb3_moe.saving.files import write_json
from sb3_moe.saving.generators import preserved_generators
from sb3_moe.saving.model_file import write_model
from sb3_moe.saving.normalizer import is_known
from sb3_moe.saving.snapshot import DamagedError, resume
from sb3_moe.study.run.folder import ORIGIN, STATISTICS, CellFolder
from sb3_moe.study.run.provenance import provenance
from sb3_moe.study.run.starting import begin_with, start_of
from sb3_moe.study.run.view import Heartbeat
from sb3_moe.study.spec.algorithms import algorithm_class, arguments_of, policy_of
from sb3_moe.study.spec.components import (
    build_callbacks,
    callback_class,
    normalizer_class,
    schedule_of,
)
from sb3_moe.study.spec.config import CellConfig, check_device, steps_between
from sb3_moe.study.spec.named import arguments_for, parameters_of
from sb3_moe.study.spec.tasks import make_env
from sb3_moe.vec_env.make import evaluation_copies, make_pinned_env
from sb3_moe.vec_env.per_task_vec_normalize import (
    PerTaskVecNormalize,
    box_keys,
    refuse_whole_numbers,
)

#: Observations at which networks are looked at, of all tasks together.
PROBE = 256
# What loading raises if bytes are wrong, and not the code.
DAMAGE = (
    DamagedError,
    pickle.UnpicklingError,
    EOFError,
    UnicodeDecodeError,
    zipfile.BadZipFile,
    zlib.error,
)


def build(cell: CellConfig) -> tuple[BaseAlgorithm, VecEnv]:
    """Build a run's model and its environment, before the first step."""
    seed = stream(cell.seed)
    env = build_env(cell, cell.n_envs, seed, schedule_of(cell))
    return build_model(cell, env, seed=seed, device=cell.device, **arguments_of(cell)), env


def stream(seed: int) -> int:
    """Spread seeds out: parallel environment ``i`` of a seed ``s`` has the seed ``s + i``.

    Neighboring seeds of a study would otherwise share most of their environments' randomness.
    """
    return int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1)


def build_env(cell: CellConfig, n_envs: int, seed: int, schedule: Any) -> VecEnv:
    """Build the environment of a run, in the normalizer that it asks for.

    :raises ValueError: if that can't be built
    """
    env = make_env(cell.games, n_envs, seed, schedule, **cell.world)
    if cell.normalize is None:
        return env
    kind = normalizer_class(cell.normalize)
    arguments = arguments_for(kind, cell.normalize.arguments, "normalize", ("venv",))
    takes_keys = "norm_obs_keys" in parameters_of(kind) and not issubclass(
        kind, PerTaskVecNormalize
    )
    if takes_keys and isinstance(env.observation_space, spaces.Dict):
        # SB3's own takes all keys, and the task's id is none that it could normalize.
        arguments.setdefault("norm_obs_keys", box_keys(env.observation_space))
    try:
        normalized: VecEnv = kind(env, **arguments)
        if isinstance(normalized, VecNormalize):
            refuse_whole_numbers(normalized)
    except Exception as error:  # SB3 looks up keys, and a user's class may do anything
        env.close()
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"`normalize`: {cell.normalize} can't be built: {reason}") from error
    return normalized


def build_model(cell: CellConfig, env: VecEnv, **arguments: Any) -> BaseAlgorithm:
    """Build a run's algorithm with its policy."""
    policy = policy_of(str(cell.architecture.policy), cell.algorithm)
    return algorithm_class(cell.algorithm)(policy, env, **arguments)


def train_cell(cell: CellConfig, folder: CellFolder) -> None:
    """Train from the last snapshot that is whole, or from the start, to the end.

    :param cell: what to train
    :param folder: where its files go; ``done.json`` last
    :raises ValueError: if there are snapshots, but the scores don't reach to one, or this machine
        lacks the device
    :raises RuntimeError: if a snapshot is whole, but can't be loaded
    """
    check_device(cell.device, here=True)
    begun = time.monotonic()
    folder.start({"cell": cell.to_dict(), **_resolved(cell), **provenance()})
    model, env = _restored(cell, folder) or _begun(cell, folder)
    start = model.num_timesteps
    # A file of this attempt: SB3's CSV writer erases what it opens.
    logger = Logger(str(folder.path), [_Csv(str(folder.path / f"progress-{start:09d}.csv"))])
    model.set_logger(logger)
    eval_env = _eval_env(cell, model)
    try:
        model.learn(
            cell.total_steps - start,
            callback=_callbacks(cell, model, folder, eval_env),
            reset_num_timesteps=False,
        )
    finally:
        logger.close()
        eval_env.close()
        env.close()
    _write_model(model, folder.path)
    attempt = {"start": start, "seconds": round(time.monotonic() - begun, 2)}
    folder.finish({"steps": model.num_timesteps, "last_attempt": attempt})


class _Csv(CSVOutputFormat):
    """SB3's, which says of a full disk which file it was."""

    def write(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().write(*args, **kwargs)
        except OSError as error:
            error.filename = self.file.name
            raise


def _write_model(model: BaseAlgorithm, path: Path) -> None:
    """Write the model that training ends with, ``model.moe``, or SB3's ``model.zip``.

    What saw normalized observations can't be used without their statistics: where ``model.moe``
    can't hold them, they stand beside the model as SB3 writes them.
    """
    normalizer = model.get_vec_normalize_env()
    with tempfile.TemporaryDirectory(dir=path, prefix=".model-") as temporary:
        is_safe = write_model(model, Path(temporary))
        if normalizer is not None and not (is_safe and is_known(normalizer)):
            normalizer.save(str(Path(temporary) / STATISTICS))
        for file in Path(temporary).iterdir():
            file.replace(path / file.name)


def _resolved(cell: CellConfig) -> dict[str, Any]:
    """Say what the algorithm is built with, how often it updates, and whose probe looks inside."""
    return {
        "arguments": cell.resolved,
        "algorithm": cell.algorithm,
        "rollout": cell.rollout,
        "probes_by_itself": any(issubclass(kind, PlasticityCallback) for kind in _named(cell)),
    }


def _named(cell: CellConfig) -> list[type]:
    """Give the classes of the callbacks that the study's file names."""
    return [callback_class(each) for each in (*cell.callbacks, *cell.architecture.callbacks)]


def _begun(cell: CellConfig, folder: CellFolder) -> tuple[BaseAlgorithm, VecEnv]:
    """Build the model, with the weights that it begins with, and write down whose they are."""
    model, env = build(cell)
    path = start_of(cell, folder.path.parent)
    if path is not None:
        write_json(folder.path / ORIGIN, begin_with(model, cell, path))
    return model, env


def _restored(cell: CellConfig, folder: CellFolder) -> tuple[BaseAlgorithm, VecEnv] | None:
    """Load the latest snapshot that can be, if there is one."""
    for snapshot in reversed(folder.snapshots()):
        try:
            return resume(snapshot, device=cell.device)
        except DAMAGE as error:
            print(f"{snapshot} is damaged: {error!r}")
        except Exception as error:
            raise RuntimeError(
                f"{snapshot.name} can't be gone on from ({type(error).__name__}: {error}); run "
                "again with --retry, and if it fails again delete it, to go on from an earlier one "
                "or to start anew"
            ) from error
    return None


def _eval_env(cell: CellConfig, model: BaseAlgorithm) -> VecEnv:
    """Build where the agent is evaluated, before any evaluation.

    SB3 draws a seed for it from the generator that epsilon-greedy policies draw from: were it built
    in the first evaluation, that one of a run that goes on would have other actions.
    """
    env = model.get_env()
    assert env is not None
    with preserved_generators():
        return make_pinned_env(env, evaluation_copies(env, cell.evaluation.episodes))


def _callbacks(
    cell: CellConfig, model: BaseAlgorithm, folder: CellFolder, eval_env: VecEnv
) -> list[BaseCallback]:
    """Evaluate every task and look inside the network, as often as the run says."""
    path = folder.path
    named = build_callbacks([*cell.callbacks, *cell.architecture.callbacks], path)
    every = steps_between(cell.steps_per_task, cell.evaluation.points)
    snapshots = max(1, cell.total_steps // (cell.checkpoints + 1))
    probe = max(PROBE, len(cell.games))  # one observation of each task at least
    evaluation = MultiTaskEvalCallback(
        every,
        cell.evaluation.episodes,
        eval_env=eval_env,
        deterministic=cell.evaluation.deterministic,
        log_path=path,
    )
    others: list[BaseCallback] = [
        PlasticityCallback(every, probe_size=probe, ntk_size=0, log_path=path),
        TaskRolloutCallback(),
    ]
    if getattr(model.policy, "moe_layers", dict)():
        others.append(RoutingCallback(every, probe_size=probe, log_path=path))
    # One that the file names, or derived from ours, takes our place; the evaluation stays.
    others = [each for each in others if not any(issubclass(k, type(each)) for k in _named(cell))]
    # After those whose returns it tells.
    heartbeat = Heartbeat(path / "live.json", cell.total_steps)
    # Last, so that a snapshot is of everything that the others did at its step.
    # Two, so that there is another if one is damaged.
    # A run starts anew only where no snapshot can be gone on from.
    snapshot = SnapshotCallback(snapshots, path, keep=2, overwrite=True)
    return [evaluation, *others, *named, heartbeat, snapshot]
