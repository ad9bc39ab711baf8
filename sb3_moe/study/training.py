"""Train one run of a study in its folder, from new weights, a trained model or a snapshot."""

import copy
import sys
import time
import warnings
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat, Logger
from stable_baselines3.common.utils import get_system_info
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_moe import callbacks
from sb3_moe.growing import upcycle
from sb3_moe.growing.models import carry_the_rest
from sb3_moe.measures.budget import measure
from sb3_moe.policies.networks import networks_of
from sb3_moe.policies.options import DEFAULTS
from sb3_moe.saving.files import atomic, read_json, sha256_of, write_json
from sb3_moe.saving.model_file import load, write_model
from sb3_moe.saving.model_parts import WrapperLeftOutWarning, is_known
from sb3_moe.saving.snapshot import resume
from sb3_moe.study.building import Named, arguments_of, build, build_callbacks, callback_class
from sb3_moe.study.config import MODELS, RunConfig
from sb3_moe.study.folder import ORIGIN, STATISTICS, RunFolder
from sb3_moe.vec_env.tasks import check_tasks, tasks_known

#: Number of observations, of all tasks together, on which networks are measured.
PROBE = 256
# Most characters of an error's reason that are kept, because torch's errors list every tensor.
LONGEST = 400
# Packages on which results depend, besides those whose versions SB3 lists.
PACKAGES = ("sb3-moe", "sb3-contrib", "gymnax", "jax", "scipy")


def train_run(run: RunConfig, folder: RunFolder) -> None:
    """Train from the last snapshot that is whole, or from the start, to the end.

    :param run: what to train
    :param folder: where its files go; ``done.json`` last
    :raises RuntimeError: if a snapshot is whole, but can't be loaded
    """
    begun = time.monotonic()
    arguments = to_jsonable_python(arguments_of(run), fallback=str)
    said = {"run": run.to_dict(), "rollout": run.rollout, "versions": versions()}
    folder.start({**said, "arguments": arguments})
    model, env = _load_or_build(run, folder)
    start = model.num_timesteps
    # A new file for each attempt: SB3's CSV writer erases the file that it opens.
    log = folder.path / f"progress-{start:09d}.csv"
    logger = Logger(str(folder.path), [CSVOutputFormat(str(log))])
    model.set_logger(logger)
    try:
        listeners = _callbacks(run, model, folder)
        model.learn(run.total_steps - start, listeners, reset_num_timesteps=False)
    finally:
        logger.close()
        env.close()
    _write_model(model, folder.path)
    attempt = {"start": start, "seconds": round(time.monotonic() - begun, 2)}
    summary = {"steps": model.num_timesteps, "last_attempt": attempt, "costs": _costs(model)}
    folder.finish(summary)


def _costs(model: BaseAlgorithm) -> dict[str, int]:
    """Count a network's parameters and FLOPs; empty if that fails, as for some users' policies."""
    with suppress(Exception):
        total = measure(model.policy).total
        return {"parameters": total.parameters, "flops": total.flops}
    return {}


def versions() -> dict[str, str]:
    """Say what this process runs on: versions of packages, system and hardware."""
    found = {name: version(name) for name in PACKAGES if find_spec(name.replace("-", "_"))}
    return get_system_info(print_info=False)[0] | found


def _write_model(model: BaseAlgorithm, path: Path) -> None:
    """Write the model that training ends with, as ``model.moe``, or else SB3's ``model.zip``.

    A model of normalized observations can't be used without their statistics: if its file can't
    hold them, they are written beside it in SB3's format.
    """
    normalizer = model.get_vec_normalize_env()
    is_safe = write_model(model, path)
    if normalizer is not None and not (is_safe and is_known(normalizer)):
        with atomic(path / STATISTICS) as temporary:
            normalizer.save(str(temporary))


def _load_or_build(run: RunConfig, folder: RunFolder) -> tuple[BaseAlgorithm, VecEnv]:
    """Load the latest whole snapshot; without one, build the model and give it the weights that it
    begins with.

    :raises RuntimeError: if a run can't go on from its snapshot
    """
    snapshots = folder.snapshots()
    if not snapshots:
        model, env = build(run)
        path = start_of(run, folder.path.parent)
        if path is not None:
            write_json(folder.path / ORIGIN, begin_with(model, run, path))
        return model, env
    try:
        model, env = resume(snapshots[-1], device=run.device)
    except Exception as error:  # a pickle may raise anything
        raise RuntimeError(
            f"{snapshots[-1].name} can't be resumed ({type(error).__name__}: {error}); run again "
            "with --retry, and if that fails, delete this snapshot to go on from an earlier one or "
            "to start anew"
        ) from error
    return model, env


def _callbacks(run: RunConfig, model: BaseAlgorithm, folder: RunFolder) -> list[BaseCallback]:
    """Build the callbacks that evaluate, measure the network and save, as often as the run says."""
    path = folder.path
    named = [*run.callbacks, *run.architecture.callbacks]
    kinds = [callback_class(each) for each in named]
    every = max(1, run.steps_per_task // run.evaluation.points)
    episodes = run.evaluation.episodes
    deterministic = run.evaluation.deterministic
    evaluation = callbacks.MultiTaskEvalCallback(
        every, episodes, deterministic=deterministic, log_path=path
    )
    own = [
        Named(name="PlasticityCallback", arguments={"ntk_size": 0}),
        Named(name="TaskRolloutCallback"),
    ]
    if _has_experts(model):
        own.append(Named(name="RoutingCallback"))
    # If the file names one of these, or a subclass, it replaces ours; the evaluation stays.
    own = [each for each in own if not any(issubclass(k, callback_class(each)) for k in kinds)]
    size = max(PROBE, len(run.games))  # one observation of each task at least
    others = build_callbacks([*own, *named], path, every=every, probe_size=size)
    # The last callback, so that a snapshot has everything that the others did at its step.
    # Two snapshots are kept, so that there is another if one is damaged.
    # Overwriting loses nothing: a run starts anew only if it can resume from no snapshot.
    steps = max(1, run.total_steps // (run.checkpoints + 1))
    snapshot = callbacks.SnapshotCallback(steps, path, keep=2, overwrite=True)
    return [evaluation, *others, snapshot]


# Beginning with a trained model's weights.


def start_of(run: RunConfig, runs: Path) -> Path | None:
    """Return the file of the model that a run begins with; None for new weights.

    :param run: of a study
    :param runs: the folder of the study's runs
    :raises ValueError: if the file isn't there, or isn't the one that other seeds began with
    """
    start = run.architecture.start_from
    if start is None:
        return None
    own = [runs / str(run.start) / f"model{suffix}" for suffix in MODELS]
    paths = own if start.model is None else [Path(start.model)]
    where = f"`architectures.{run.architecture.name}.start_from`"
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise ValueError(f"{where} must name a trained model, got {paths[0]}, which isn't there")
    for origin in runs.glob(f"*-{run.architecture.name}-s*/{ORIGIN}"):
        other = RunFolder(origin.parent).config()["run"]["architecture"]["name"]
        if start.model is None or other != run.architecture.name:
            continue  # names of networks may have dashes
        if read_json(origin)["sha256"] != sha256_of(found):
            raise ValueError(
                f"{where} must be the file that {origin.parent} began with, got another under the "
                f"same name, {found}; put it back, or use another output folder"
            )
    return found


def begin_with(model: BaseAlgorithm, run: RunConfig, path: Path) -> dict[str, Any]:
    """Give a new model, which has taken no step, the weights of a model's file.

    :param model: built as the run says
    :param run: the model's run
    :param path: the file
    :return: where the weights come from, as plain values
    :raises ValueError: if the file can't be loaded, or its model doesn't fit
    """
    try:
        trained = _read_trained(model, path)
    except Exception as error:  # a foreign file may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"`start_from` can't load {path} ({reason})") from error
    copy_weights(model, trained, run.architecture.name)
    # Loading has seeded everything with the file's seed, which may be the same for all runs.
    model.set_random_seed(model.seed)
    return {
        "model": f"{run.start}/{path.name}" if run.start else str(path),
        "sha256": sha256_of(path),
        "steps": trained.num_timesteps,
        "upcycled": _has_experts(model) and not _has_experts(trained),
    }


def _read_trained(model: BaseAlgorithm, path: Path) -> Any:
    """Return a file's model, and give the normalizer of the new model the file's statistics."""
    normalizer = model.get_vec_normalize_env()
    statistics = path.with_name(STATISTICS)
    if path.suffix == ".moe" and (normalizer is None or is_known(normalizer)):
        with warnings.catch_warnings():  # an error if the study lacks the file's normalizer
            warnings.simplefilter("error", WrapperLeftOutWarning)
            env = None if normalizer is None else model.get_env()
            return load(path, env, device=model.device, max_bytes=sys.maxsize)
    if normalizer is not None:
        saved = vars(VecNormalize.load(str(statistics), normalizer.venv))
        vars(normalizer).update({k: saved[k] for k in ("obs_rms", "ret_rms") if k in saved})
    if path.suffix == ".moe":
        return load(path, device=model.device, normalizer=False, max_bytes=sys.maxsize)
    return type(model).load(path, device=model.device)


def _has_experts(model: BaseAlgorithm) -> bool:
    return bool(getattr(model.policy, "moe_layers", dict)())


def copy_weights(model: Any, trained: Any, name: str) -> None:
    """Write a trained model's weights, and its optimizers' averages, into a new one.

    :param model: a new one, which keeps its arguments
    :param trained: of the same algorithm; a dense one is upcycled where the new one has experts
    :param name: of the architecture
    :raises ValueError: if they don't fit
    """
    where = f"`architectures.{name}.start_from`"
    env = model.get_env()
    try:
        if type(trained) is not type(model):
            raise ValueError(f"it is of {type(trained).__name__}, not {type(model).__name__}")
        check_tasks(tasks_known(trained), env)
        if _has_experts(model) and not _has_experts(trained):
            options = {k: v for k, v in model.policy_kwargs.items() if k in DEFAULTS}
            trained.seed = model.seed  # else each seed would begin with the same new router
            same = trained.observation_space == model.observation_space
            trained = upcycle(trained, env=None if same else env, **options)
        model.policy.load_state_dict(trained.policy.state_dict())
        carry_the_rest(model, trained)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())  # torch says it in many lines
        raise ValueError(f"{where} doesn't fit: {reason[:LONGEST]}") from error
    optimizers = [networks_of(each.policy).every_optimizer() for each in (model, trained)]
    for mine, other in zip(*optimizers, strict=True):
        if type(mine) is type(other):
            averages = copy.deepcopy(other.state_dict()["state"])
            mine.load_state_dict({**mine.state_dict(), "state": averages})
