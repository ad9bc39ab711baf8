"""Begin a run with a trained model's weights."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_moe.growing import upcycle
from sb3_moe.growing.models import carry_the_rest
from sb3_moe.networks import networks_of
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import DEFAULTS
from sb3_moe.saving.files import read_json, sha256_of
from sb3_moe.saving.model_file import load
from sb3_moe.saving.normalizer import NormalizerLeftOutWarning, is_known
from sb3_moe.study.run.folder import ORIGIN, STATISTICS
from sb3_moe.study.spec.config import MODELS, CellConfig, StartFrom
from sb3_moe.vec_env.tasks import check_tasks, tasks_known

# Of a reason: torch names every tensor.
LONGEST = 400


def start_of(cell: CellConfig, cells: Path) -> Path | None:
    """Return the file of the model that a run begins with; None for new weights.

    :param cell: of a study
    :param cells: the folder of the study's runs
    :raises ValueError: if the file isn't there
    """
    start = cell.architecture.start_from
    if start is None:
        return None
    if start.model is not None:
        paths = [Path(start.model)]
    else:
        paths = [cells / str(cell.start) / f"model{suffix}" for suffix in MODELS]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise ValueError(
            f"`architectures.{cell.architecture.name}.start_from` must name a trained model, got "
            f"{paths[0]}, which isn't there"
        )
    for origin in cells.glob(f"*-{cell.architecture.name}-s*/{ORIGIN}"):
        # Another seed of the same network: it must have begun with the same file.
        if start.model is not None and read_json(origin)["sha256"] != sha256_of(found):
            raise ValueError(
                f"`architectures.{cell.architecture.name}.start_from` must be the file that "
                f"{origin.parent} began with, got another under the same name, {found}; put it "
                "back, or use another output folder"
            )
    return found


def begin_with(model: BaseAlgorithm, cell: CellConfig, path: Path) -> dict[str, Any]:
    """Give a model, which has taken no step, the networks of a file.

    :param model: as the run says
    :param cell: which the model is of
    :param path: the file
    :return: what there is to say of its origin
    :raises ValueError: if the file holds none that fits
    """
    start = cell.architecture.start_from
    assert start is not None
    trained = read_trained(model, path)
    take_over(model, trained, start, cell.architecture.name)
    # Loading seeds everything with the other model's seed, and so all of a study's seeds alike.
    model.set_random_seed(model.seed)
    grows = has_experts(model) and not has_experts(trained)
    return {
        "model": str(path) if start.architecture is None else f"{cell.start}/{path.name}",
        "sha256": sha256_of(path),
        "steps": trained.num_timesteps,
        "upcycled": start.how if grows else None,
    }


def read_trained(model: BaseAlgorithm, path: Path) -> Any:
    """Return a file's model, its normalizer's statistics given to the environment of another.

    :param model: which it is for
    :param path: of ``sb3_moe.save``, or SB3's zip
    :raises ValueError: if it can't be loaded
    """
    normalizer = model.get_vec_normalize_env()
    try:
        if path.suffix == ".moe" and (normalizer is None or is_known(normalizer)):
            with warnings.catch_warnings():
                warnings.simplefilter("error", NormalizerLeftOutWarning)
                env = None if normalizer is None else model.get_env()
                return load(path, env, device=model.device)
        if normalizer is not None:
            _take_statistics(normalizer, path.with_name(STATISTICS))
        if path.suffix == ".moe":
            return load(path, device=model.device, normalizer=False)
        return type(model).load(path, device=model.device)
    except NormalizerLeftOutWarning as error:
        raise ValueError(
            f"`start_from` needs `normalize` in the study, as the model of {path} had"
        ) from error
    except Exception as error:  # a foreign file may raise anything
        raise ValueError(
            f"`start_from` can't load {path} ({type(error).__name__}: {error})"
        ) from error


def _take_statistics(normalizer: VecNormalize, path: Path) -> None:
    """Give a normalizer the running statistics of one that was saved.

    :raises ValueError: if there is none, or it is of another class
    """
    if not path.is_file():
        raise ValueError(
            f"the study normalizes, and the statistics of what the model saw are missing: save its "
            f"VecNormalize as {path.name} beside it"
        )
    saved = VecNormalize.load(str(path), normalizer.venv)
    if type(saved) is not type(normalizer):
        raise ValueError(
            f"{path.name} is of {type(saved).__name__}, `normalize` of {type(normalizer).__name__}"
        )
    for name in ("obs_rms", "ret_rms"):
        if hasattr(saved, name):
            setattr(normalizer, name, getattr(saved, name))


def has_experts(model: BaseAlgorithm) -> bool:
    """Say whether a model has a mixture of experts."""
    return isinstance(model.policy, MoEPolicy) and bool(model.policy.moe_layers())


def take_over(model: Any, trained: Any, start: StartFrom, name: str) -> None:
    """Write a trained model's weights, and its optimizers' averages, into a new one.

    :param model: a new one, whose arguments stay
    :param trained: of the same algorithm; a dense one is upcycled where the new one has experts
    :param start: says how
    :param name: of the architecture
    :raises ValueError: if they don't fit
    """
    where = f"`architectures.{name}.start_from`"
    if type(trained) is not type(model):
        raise ValueError(
            f"{where} must be a model of {type(model).__name__}, got {type(trained).__name__}"
        )
    env = model.get_env()
    try:
        if env is not None:
            check_tasks(tasks_known(trained), env)
        if has_experts(model) and not has_experts(trained):
            options = {k: v for k, v in model.policy_kwargs.items() if k in DEFAULTS}
            same = trained.observation_space == model.observation_space
            trained = upcycle(trained, how=start.how, env=None if same else env, **options)  # type: ignore[arg-type]
        model.policy.load_state_dict(trained.policy.state_dict())
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())  # torch says it in many lines
        raise ValueError(f"{where} doesn't fit: {reason[:LONGEST]}") from error
    pairs = zip(
        networks_of(model.policy).every_optimizer(),
        networks_of(trained.policy).every_optimizer(),
        strict=True,
    )
    for mine, theirs in pairs:
        if type(mine) is type(theirs):
            _carry_averages(mine, theirs)
    carry_the_rest(model, trained)


def _carry_averages(mine: Any, theirs: Any) -> None:
    """Load an optimizer's averages and keep its own settings."""
    own = [{k: v for k, v in group.items() if k != "params"} for group in mine.param_groups]
    mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for group, settings in zip(mine.param_groups, own, strict=True):
        group.update(settings)
