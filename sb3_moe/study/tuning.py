"""Which value of an argument suits each network, found on development seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sb3_moe.saving.files import read_json, write_json
from sb3_moe.study.config import RunConfig
from sb3_moe.study.folder import Job, survey
from sb3_moe.study.grid import StudyConfig, tuned
from sb3_moe.study.preparing import random_means
from sb3_moe.study.results import CHOICES, as_table, read_runs


def chosen(study: StudyConfig, root: Path) -> StudyConfig:
    """Give a study with the values that were found; as it is while networks lack theirs.

    :raises ValueError: if they were found with other entries of `tune`
    """
    if study.tune is None or _open(study, root):
        return study
    networks = _choices(study, root)
    return tuned(study, {name: each["value"] for name, each in networks.items()})


def all_runs(study: StudyConfig, root: Path) -> list[RunConfig]:
    """List the runs of a study, those that choose its values first where it lacks some."""
    undecided = _open(study, root)
    if study.tune is None or not undecided:
        return chosen(study, root).runs()
    values = dict.fromkeys(undecided, study.tune.values[0])
    values |= {name: each["value"] for name, each in _choices(study, root).items()}
    grids = dict.fromkeys(undecided, study.tune.values)
    return [*trials(study, grids).runs(), *tuned(study, values).runs()]


def _open(study: StudyConfig, root: Path) -> list[str]:
    """List the networks whose value is still to be found."""
    if study.tune is None:
        return []
    found = _choices(study, root)
    return [
        each.name
        for each in study.architectures
        if study.tune.argument not in each.arguments
        and each.name not in found
        and (not study.only or each.name in study.only)
    ]


def _choices(study: StudyConfig, root: Path) -> dict[str, Any]:
    """Read what was found for each network."""
    path = root / CHOICES
    if not path.exists():
        return {}
    found, said = read_json(path), study.to_dict()["tune"]
    if found["tune"] != said:
        raise ValueError(
            f"{path} was made with another `tune`; use another output folder, or change it back: "
            f"{found['tune']} -> {said}"
        )
    return dict(found["networks"])


def tune(study: StudyConfig, root: Path, train: Callable[[Sequence[Job]], None]) -> None:
    """Run the values of each network, further ones where the best is at the edge, and choose.

    :param study: with an entry `tune`
    :param root: its folder, which gets ``tune.json`` unless a run isn't done
    :param train: runs those of some jobs that aren't done
    """
    assert study.tune is not None
    grids = {name: sorted(study.tune.values) for name in _open(study, root)}
    for _ in range(study.tune.extensions + 1):
        runs = trials(study, grids).runs()
        train(survey(runs, root))
        jobs = survey(runs, root)
        if any(job.state.status != "done" for job in jobs):
            return
        scores = _scores(study, jobs, root, grids)
        best = {name: max(each, key=lambda value: each[value]) for name, each in scores.items()}
        further = {name: beyond(grids[name], best[name]) for name in grids}
        if all(value is None for value in further.values()):
            break
        for name, value in further.items():
            grids[name] = sorted({*grids[name], *([] if value is None else [value])})
    found = _choices(study, root)
    for name, each in scores.items():
        found[name] = {
            "value": best[name],
            "at_the_edge": further[name] is not None,
            "scores": [[v, s if np.isfinite(s) else None] for v, s in sorted(each.items())],
        }
    write_json(root / CHOICES, {"tune": study.to_dict()["tune"], "networks": found})


def trials(study: StudyConfig, grids: Mapping[str, Sequence[float]]) -> StudyConfig:
    """Give the study of the development seeds: networks with each of their values.

    :param grids: the values of each network
    """
    assert study.tune is not None
    argument = study.tune.argument
    variants = [
        replace(
            each,
            name=_variant(each.name, argument, value),
            arguments={**each.arguments, argument: value},
        )
        for each in study.architectures
        for value in grids.get(each.name, ())
    ]
    return replace(
        study,
        # The others are there only to be begun with.
        architectures=(*study.architectures, *variants),
        only=tuple(each.name for each in variants),
        seeds=study.tune.seeds,
        tune=None,
    )


def _variant(name: str, argument: str, value: float) -> str:
    return f"{name}@{argument}={value:g}"


def _scores(
    study: StudyConfig, jobs: Sequence[Job], root: Path, grids: Mapping[str, Sequence[float]]
) -> dict[str, dict[float, float]]:
    """Give each network's score with each value: its mean return above the random policy's.

    Over all evaluations of the tasks that a run trains, and all runs. Each task is divided by its
    largest mean among the network's values, so that tasks weigh alike. A run whose returns are no
    numbers makes its value the worst.
    """
    assert study.tune is not None
    argument, random = study.tune.argument, random_means(study, root)
    table = as_table([job.run for job in jobs], read_runs(jobs), random)
    rows = table[table["measure"] == "return"]
    places = zip(rows["order"], rows["task"], strict=True)
    rows = rows[[order == "" or f" {task} " in f" {order} " for order, task in places]]
    above = rows["value"] - rows["task"].map(random)
    means = above.groupby([rows["architecture"], rows["task"]]).agg(lambda x: x.mean(skipna=False))
    found = {}
    for name, values in grids.items():
        mine = means.unstack("task").loc[[_variant(name, argument, value) for value in values]]
        mine = mine.dropna(axis=1, how="all")
        shares = mine / mine.abs().max().clip(lower=1e-12)
        scores = shares.mean(axis=1, skipna=False).fillna(-np.inf)
        found[name] = dict(zip(values, map(float, scores), strict=True))
    return found


def beyond(values: Sequence[float], best: float) -> float | None:
    """Give the value that continues a grid on the side of its best value, if that is an edge.

    By the ratio of the last two values, or by their difference where one is not positive; whole
    numbers stay whole.

    :param values: rising
    :param best: one of them
    """
    if best not in (values[0], values[-1]):
        return None
    edge, inner = (values[0], values[1]) if best == values[0] else (values[-1], values[-2])
    value = edge * edge / inner if values[0] > 0 else 2 * edge - inner
    whole = all(isinstance(each, int) for each in values)
    value = round(value) if whole else float(f"{value:.3g}")
    return None if value in values or (value <= 0 < values[0]) else value
