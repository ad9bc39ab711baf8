"""Train one run of a study in its folder, from new weights, a trained model's or a snapshot's."""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import CSVOutputFormat, Logger
from stable_baselines3.common.utils import get_system_info
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_moe.callbacks import (
    MultiTaskEvalCallback,
    PlasticityCallback,
    RoutingCallback,
    SnapshotCallback,
    TaskRolloutCallback,
)
from sb3_moe.growing import upcycle
from sb3_moe.growing.models import carry_the_rest
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import networks_of
from sb3_moe.policies.options import DEFAULTS
from sb3_moe.saving.files import naming, read_json, sha256_of, write_json
from sb3_moe.saving.generators import preserved_generators
from sb3_moe.saving.model_file import load, write_model
from sb3_moe.saving.normalizer import NormalizerLeftOutWarning, is_known
from sb3_moe.saving.snapshot import resume
from sb3_moe.study.building import arguments_of, build, build_callbacks, callback_class, described
from sb3_moe.study.config import MODELS, RunConfig
from sb3_moe.study.folder import ORIGIN, STATISTICS, RunFolder
from sb3_moe.vec_env.make import evaluation_copies, make_pinned_env
from sb3_moe.vec_env.tasks import check_tasks, tasks_known

#: Observations at which networks are looked at, of all tasks together.
PROBE = 256
# Of a reason: torch names every tensor.
LONGEST = 400
# What numbers rest on, besides what SB3 lists.
PACKAGES = ("sb3-moe", "sb3-contrib", "gymnax", "jax", "scipy")


def train_run(run: RunConfig, folder: RunFolder) -> None:
    """Train from the last snapshot that is whole, or from the start, to the end.

    :param run: what to train
    :param folder: where its files go; ``done.json`` last
    :raises ValueError: if there are snapshots, but the scores don't reach to one
    :raises RuntimeError: if a snapshot is whole, but can't be loaded
    """
    begun = time.monotonic()
    folder.start(
        {
            "run": run.to_dict(),
            "arguments": described(arguments_of(run)),
            "rollout": run.rollout,
            "versions": versions(),
        }
    )
    model, env = _restored(run, folder) or _begun(run, folder)
    start = model.num_timesteps
    # A file of this attempt: SB3's CSV writer erases what it opens.
    logger = Logger(
        str(folder.path), [CSVOutputFormat(str(folder.path / f"progress-{start:09d}.csv"))]
    )
    model.set_logger(logger)
    eval_env = _eval_env(run, model)
    try:
        model.learn(
            run.total_steps - start,
            callback=_callbacks(run, model, folder, eval_env),
            reset_num_timesteps=False,
        )
    finally:
        logger.close()
        eval_env.close()
        env.close()
    _write_model(model, folder.path)
    folder.check_rows(run, model.num_timesteps)
    attempt = {"start": start, "seconds": round(time.monotonic() - begun, 2)}
    folder.finish({"steps": model.num_timesteps, "last_attempt": attempt})


def versions() -> dict[str, str]:
    """Say what this process runs on: versions of packages, system and hardware."""
    there = [package for package in PACKAGES if find_spec(package.replace("-", "_"))]
    return get_system_info(print_info=False)[0] | {package: version(package) for package in there}


def _write_model(model: BaseAlgorithm, path: Path) -> None:
    """Write the model that training ends with, ``model.moe``, or SB3's ``model.zip``.

    What saw normalized observations can't be used without their statistics: where ``model.moe``
    can't hold them, they stand beside the model as SB3 writes them.
    """
    normalizer = model.get_vec_normalize_env()
    with tempfile.TemporaryDirectory(dir=path, prefix=".model-") as temporary:
        is_safe = write_model(model, Path(temporary))
        if normalizer is not None and not (is_safe and is_known(normalizer)):
            with naming(path / STATISTICS):
                normalizer.save(str(Path(temporary) / STATISTICS))
        for file in Path(temporary).iterdir():
            file.replace(path / file.name)


def _begun(run: RunConfig, folder: RunFolder) -> tuple[BaseAlgorithm, VecEnv]:
    """Build the model, with the weights that it begins with, and write down whose they are."""
    model, env = build(run)
    path = start_of(run, folder.path.parent)
    if path is not None:
        write_json(folder.path / ORIGIN, begin_with(model, run, path))
    return model, env


def _restored(run: RunConfig, folder: RunFolder) -> tuple[BaseAlgorithm, VecEnv] | None:
    """Load the latest snapshot that is whole, if there is one.

    :raises RuntimeError: if it can't be gone on from
    """
    snapshots = folder.snapshots()
    if not snapshots:
        return None
    try:
        model, env = resume(snapshots[-1], device=run.device)
    except Exception as error:  # a pickle may raise anything
        raise RuntimeError(
            f"{snapshots[-1].name} can't be gone on from ({type(error).__name__}: {error}); run "
            "again with --retry, and if it fails again delete it, to go on from an earlier one "
            "or to start anew"
        ) from error
    folder.check_rows(run, model.num_timesteps)
    return model, env


def _eval_env(run: RunConfig, model: BaseAlgorithm) -> VecEnv:
    """Build where the agent is evaluated, before any evaluation.

    SB3 draws a seed for it from the generator that epsilon-greedy policies draw from: were it built
    in the first evaluation, that one of a run that goes on would have other actions.
    """
    env = model.get_env()
    assert env is not None
    with preserved_generators():
        return make_pinned_env(env, evaluation_copies(env, run.evaluation.episodes))


def _callbacks(
    run: RunConfig, model: BaseAlgorithm, folder: RunFolder, eval_env: VecEnv
) -> list[BaseCallback]:
    """Evaluate every task and look inside the network, as often as the run says."""
    path, named = folder.path, [*run.callbacks, *run.architecture.callbacks]
    kinds = [callback_class(each) for each in named]
    every = run.steps_between
    probe = max(PROBE, len(run.games))  # one observation of each task at least
    evaluation = MultiTaskEvalCallback(
        every,
        run.evaluation.episodes,
        eval_env=eval_env,
        deterministic=run.evaluation.deterministic,
        log_path=path,
    )
    others: list[BaseCallback] = [
        PlasticityCallback(every, probe_size=probe, ntk_size=0, log_path=path),
        TaskRolloutCallback(),
    ]
    if getattr(model.policy, "moe_layers", dict)():
        others.append(RoutingCallback(every, probe_size=probe, log_path=path))
    # One that the file names, or derived from ours, takes our place; the evaluation stays.
    others = [each for each in others if not any(issubclass(k, type(each)) for k in kinds)]
    # Last, so that a snapshot is of everything that the others did at its step.
    # Two, so that there is another if one is damaged.
    # A run starts anew only where no snapshot can be gone on from.
    steps = max(1, run.total_steps // (run.checkpoints + 1))
    snapshot = SnapshotCallback(steps, path, keep=2, overwrite=True)
    return [evaluation, *others, *build_callbacks(named, path), snapshot]


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
    paths = [runs / str(run.start) / f"model{suffix}" for suffix in MODELS]
    if start.model is not None:
        paths = [Path(start.model)]
    where = f"`architectures.{run.architecture.name}.start_from`"
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise ValueError(f"{where} must name a trained model, got {paths[0]}, which isn't there")
    for origin in runs.glob(f"*-{run.architecture.name}-s*/{ORIGIN}"):
        if start.model is not None and read_json(origin)["sha256"] != sha256_of(found):
            raise ValueError(
                f"{where} must be the file that {origin.parent} began with, got another under the "
                f"same name, {found}; put it back, or use another output folder"
            )
    return found


def begin_with(model: BaseAlgorithm, run: RunConfig, path: Path) -> dict[str, Any]:
    """Give a model, which has taken no step, the networks of a file.

    :param model: as the run says
    :param run: which the model is of
    :param path: the file
    :return: what there is to say of its origin
    :raises ValueError: if the file holds none that fits
    """
    start = run.architecture.start_from
    assert start is not None
    try:
        trained = _read_trained(model, path)
    except Exception as error:  # a foreign file may raise anything
        raise ValueError(
            f"`start_from` can't load {path} ({type(error).__name__}: {error})"
        ) from error
    take_over(model, trained, run.architecture.name)
    # Loading seeds everything with the other model's seed, and so all of a study's seeds alike.
    model.set_random_seed(model.seed)
    grows = has_experts(model) and not has_experts(trained)
    return {
        "model": str(path) if start.architecture is None else f"{run.start}/{path.name}",
        "sha256": sha256_of(path),
        "steps": trained.num_timesteps,
        "upcycled": grows,
    }


def _read_trained(model: BaseAlgorithm, path: Path) -> Any:
    """Return a file's model, its normalizer's statistics given to the environment of another.

    :param model: which it is for
    :param path: of ``sb3_moe.save``, or SB3's zip
    """
    normalizer = model.get_vec_normalize_env()
    if path.suffix == ".moe" and (normalizer is None or is_known(normalizer)):
        with warnings.catch_warnings():  # of a normalizer that the study lacks
            warnings.simplefilter("error", NormalizerLeftOutWarning)
            env = None if normalizer is None else model.get_env()
            return load(path, env, device=model.device)
    if normalizer is not None:
        statistics = path.with_name(STATISTICS)
        saved = VecNormalize.load(str(statistics), normalizer.venv)
        if type(saved) is not type(normalizer):
            kinds = type(saved).__name__, type(normalizer).__name__
            raise ValueError("{} is of {}, `normalize` of {}".format(statistics.name, *kinds))
        for name in {"obs_rms", "ret_rms"} & {*vars(saved)}:
            setattr(normalizer, name, getattr(saved, name))
    if path.suffix == ".moe":
        return load(path, device=model.device, normalizer=False)
    return type(model).load(path, device=model.device)


def has_experts(model: BaseAlgorithm) -> bool:
    """Say whether a model has a mixture of experts."""
    return isinstance(model.policy, MoEPolicy) and bool(model.policy.moe_layers())


def take_over(model: Any, trained: Any, name: str) -> None:
    """Write a trained model's weights, and its optimizers' averages, into a new one.

    :param model: a new one, whose arguments stay
    :param trained: of the same algorithm; a dense one is upcycled where the new one has experts
    :param name: of the architecture
    :raises ValueError: if they don't fit
    """
    where = f"`architectures.{name}.start_from`"
    if type(trained) is not type(model):
        kinds = type(model).__name__, type(trained).__name__
        raise ValueError("{} must be a model of {}, got {}".format(where, *kinds))
    env = model.get_env()
    try:
        if env is not None:
            check_tasks(tasks_known(trained), env)
        if has_experts(model) and not has_experts(trained):
            options: Any = {k: v for k, v in model.policy_kwargs.items() if k in DEFAULTS}
            same = trained.observation_space == model.observation_space
            trained = upcycle(trained, env=None if same else env, **options)
        model.policy.load_state_dict(trained.policy.state_dict())
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())  # torch says it in many lines
        raise ValueError(f"{where} doesn't fit: {reason[:LONGEST]}") from error
    optimizers = [networks_of(each.policy).every_optimizer() for each in (model, trained)]
    _carry_averages(*optimizers)
    carry_the_rest(model, trained)


def _carry_averages(ours: Sequence[Any], theirs: Sequence[Any]) -> None:
    """Load optimizers' averages, and keep their own settings."""
    for mine, other in zip(ours, theirs, strict=True):
        if type(mine) is not type(other):
            continue
        own = [{k: v for k, v in group.items() if k != "params"} for group in mine.param_groups]
        mine.load_state_dict(copy.deepcopy(other.state_dict()))
        for group, settings in zip(mine.param_groups, own, strict=True):
            group.update(settings)
