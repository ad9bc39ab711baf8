"""Which value of an argument suits each network, found on development seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sb3_moe.saving.files import read_json, write_json
from sb3_moe.study.run.jobs import Job, survey
from sb3_moe.study.run.random_policy import read_returns
from sb3_moe.study.spec.config import Architecture, CellConfig
from sb3_moe.study.spec.grid import StudyConfig, tuned

#: Where, in a study's folder, the values stand that its networks take.
CHOICES = "tune.json"


def chosen(study: StudyConfig, root: Path) -> StudyConfig:
    """Give a study with the values that were found; as it is while networks lack theirs.

    :raises ValueError: if they were found with other entries of `tune`
    """
    networks = _choices(study, root)
    if study.tune is None or any(each.name not in networks for each in _tuned_networks(study)):
        return study
    return tuned(study, {name: each["value"] for name, each in networks.items()})


def runs_of(study: StudyConfig, root: Path) -> list[CellConfig]:
    """List the runs of a study, those that choose its values first where it lacks some."""
    found = _choices(study, root)
    open_ones = [each.name for each in _tuned_networks(study) if each.name not in found]
    if study.tune is None or not open_ones:
        return chosen(study, root).cells()
    grids = dict.fromkeys(open_ones, study.tune.values)
    values = {name: each[0] for name, each in grids.items()}
    values |= {name: each["value"] for name, each in found.items()}
    return [*trials(study, grids).cells(), *tuned(study, values).cells()]


def _choices(study: StudyConfig, root: Path) -> dict[str, Any]:
    """Read what was found for each network."""
    path = root / CHOICES
    if study.tune is None or not path.exists():
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
    :param train: runs those of some jobs that aren't done, and measures the random policy
    """
    assert study.tune is not None
    found = _choices(study, root)
    open_ones = [each.name for each in _tuned_networks(study) if each.name not in found]
    grids = {name: sorted(study.tune.values) for name in open_ones}
    for _ in range(study.tune.extensions + 1):
        cells = trials(study, grids).cells()
        train(survey(cells, root))
        jobs = survey(cells, root)
        if any(job.state.status != "done" for job in jobs):
            return
        level = read_returns(root / "random.json", study.games, study.random_episodes)
        scores = _scores(jobs, study.tune.argument, grids, [np.mean(r) for r in level.values()])
        best = {name: max(each, key=lambda value: each[value]) for name, each in scores.items()}
        further = {name: beyond(grids[name], best[name]) for name in grids}
        if not any(further.values()):
            break
        for name, value in further.items():
            if value is not None:
                grids[name] = sorted({*grids[name], value})
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
    # The others are there only to be begun with.
    columns = (*study.architectures, *variants)
    trial = replace(study, architectures=columns, seeds=study.tune.seeds, tune=None)
    return trial.only([each.name for each in variants])


def _tuned_networks(study: StudyConfig) -> list[Architecture]:
    """List the networks whose own arguments leave the value open."""
    if study.tune is None:
        return []
    wanted = study._only or [each.name for each in study.architectures]
    return [
        each
        for each in study.architectures
        if study.tune.argument not in each.arguments and each.name in wanted
    ]


def _variant(name: str, argument: str, value: float) -> str:
    return f"{name}@{argument}={value:g}"


def _scores(
    jobs: Sequence[Job],
    argument: str,
    grids: Mapping[str, Sequence[float]],
    level: Sequence[Any],
) -> dict[str, dict[float, float]]:
    """Give each network's score with each value: its mean return above the random policy's.

    Over all evaluations of the tasks that a run trains, and all runs. Each task is divided by its
    largest mean among the network's values, so that tasks weigh alike. A run whose returns are no
    numbers makes its value the worst.
    """
    games = jobs[0].cell.games
    total: dict[str, Any] = defaultdict(lambda: np.zeros(len(games)))
    count: dict[str, Any] = defaultdict(lambda: np.zeros(len(games)))
    for job in jobs:
        trained = np.isin(games, job.cell.order or games)
        above = job.folder.scores()["score"].mean(axis=0) - np.array(level)
        total[job.cell.architecture.name] += np.where(trained, above, 0.0)
        count[job.cell.architecture.name] += trained
    found = {}
    for name, values in grids.items():
        variants = [_variant(name, argument, value) for value in values]
        seen = count[variants[0]] > 0
        means = np.stack([total[each][seen] / count[each][seen] for each in variants])
        scale = np.nanmax(np.abs(means), axis=0)
        scores = np.nan_to_num((means / np.maximum(scale, 1e-12)).mean(axis=1), nan=-np.inf)
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
