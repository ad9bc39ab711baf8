"""Each network of a study at play: the pages that a report links."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from sb3_moe.saving.model_file import SAFE, load
from sb3_moe.study.run.engine import child_environment, environment
from sb3_moe.study.run.jobs import Job, survey
from sb3_moe.study.spec.grid import StudyConfig
from sb3_moe.study.spec.tasks import make_env
from sb3_moe.watching.record import watch
from sb3_moe.watching.replay import Replay

#: Where they lie, beside the report's page.
FOLDER = "replays"
# A page stays small enough to be sent, and is recorded in seconds.
MAX_STEPS = 500


def write_replays(study: StudyConfig, root: Path, to: Path, cache: Path) -> Iterator[str]:
    """Play every task with each network, by the first of its runs that is done.

    :param root: the study's folder
    :param to: the report's folder, which gets ``replays/<network>.html``
    :param cache: folder in which processes leave each other what jax has compiled
    :return: a line for each network, on what came of it, while they are played
    """
    jobs: dict[str, Job] = {}
    for job in survey(study.cells(), root):
        if job.state.status == "done":
            jobs.setdefault(job.cell.architecture.name, job)
    with environment(child_environment(cache)):
        for name, job in jobs.items():
            page = to / FOLDER / f"{name}.html"
            try:
                replay = _replay(job)
                page.parent.mkdir(parents=True, exist_ok=True)
                yield f"replay: {replay.save(page)}"
            except Exception as error:  # what a task can't do, or lacks for it, is its own to say
                yield f"no replay of {name}: {str(error) or type(error).__name__}"


def _replay(job: Job) -> Replay:
    """Play every task once.

    :raises ValueError: if the run's model can't be opened safely, or lacks its normaliser
    """
    from sb3_moe_envs.schedules import Interleave

    cell, path = job.cell, job.folder.path / SAFE
    if not path.exists():
        raise ValueError(f"{job.folder.name} has no {SAFE}, since code of your own is in its model")
    env = make_env(cell.games, len(cell.games), cell.seed, Interleave(), **cell.world)
    try:
        # One's own model may be of any size.
        model = load(path, env, device="cpu", max_bytes=sys.maxsize)
        if cell.normalize is not None and model.get_vec_normalize_env() is None:
            raise ValueError(f"{SAFE} lacks the statistics of its normaliser")
        replay = watch(model, max_steps=MAX_STEPS)
    finally:
        env.close()
    replay.title = cell.name
    return replay
