"""A report's networks are seen at play, as their runs left them."""

import json
import re

import pytest

import sb3_moe
from sb3_moe.study.commands import prepare, report
from sb3_moe.study.report.replays import write_replays
from sb3_moe.study.run.cell import train_cell
from sb3_moe.study.run.jobs import survey
from sb3_moe.study.spec.config import Architecture, Evaluation
from sb3_moe.study.spec.grid import StudyConfig
from sb3_moe.study.spec.named import Named
from sb3_moe.vec_env import PerTaskVecNormalize

TASKS = tuple((name, {"max_episode_steps": 5}) for name in ("CartPole-v1", "Acrobot-v1"))
STUDY = StudyConfig(
    name="seen",
    games=("CartPole", "Acrobot"),
    tasks=TASKS,
    regimes=("mtrl",),
    architectures=tuple(
        Architecture(name=name, policy_kwargs={"placement": placement, "net_arch": [8]})
        for name, placement in (("dense", "none"), ("soft-middle", "middle"))
    ),
    seeds=(0, 1),
    n_envs=2,
    steps_per_task=32,
    arguments={"n_steps": 16, "batch_size": 32},
    normalize=Named(name="PerTaskVecNormalize"),
    evaluation=Evaluation(points=1, episodes=1),
    random_episodes=10,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("seen")
    prepare(STUDY, root)
    for job in survey(STUDY.cells(), root):
        if job.cell.seed == 1:  # of the first seed nothing is done
            train_cell(job.cell, job.folder)
    return root


def test_a_report_links_a_page_of_each_network_at_play(root, capsys):
    report(STUDY, root, replays=True)
    page = (root / "report" / "index.html").read_text()
    said = capsys.readouterr().out.splitlines()
    for name, line in zip(("dense", "soft-middle"), said, strict=False):
        assert f'<a href="replays/{name}.html">' in page
        path = root / "report" / "replays" / f"{name}.html"
        assert line == f"replay: {path}"
        text = path.read_text()
        assert f"<title>mtrl-CartPole.Acrobot-{name}-s1</title>" in text
        data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
        assert data["tasks"] == ["CartPole", "Acrobot"]
        assert [track["steps"] for track in data["runs"][0]["tracks"]] == [5, 5]
        assert data["noFrames"] is None
        assert bool(data["mixtures"]) == (name == "soft-middle")


def test_a_runs_model_has_the_statistics_that_it_saw_through(root):
    trained = next(each for each in survey(STUDY.cells(), root) if each.state.status == "done")
    env = sb3_moe.make_multitask_vec_env(TASKS, seed=0)
    model = sb3_moe.load(trained.folder.path / "model.moe", env, device="cpu")
    normaliser = model.get_vec_normalize_env()
    assert isinstance(normaliser, PerTaskVecNormalize)
    assert all(each.count > 1 for each in normaliser.obs_rms["obs"].tasks)


def test_a_model_that_is_not_safe_to_open_is_left_out_with_a_word(root, tmp_path):
    job = next(each for each in survey(STUDY.cells(), root) if each.state.status == "done")
    kept = (job.folder.path / "model.moe").read_bytes()
    done = (job.folder.path / "done.json").read_text()
    try:
        (job.folder.path / "model.moe").rename(job.folder.path / "model.zip")
        job.folder.finish({"steps": 32, "last_attempt": {"start": 0, "seconds": 1.0}})
        lines = list(write_replays(STUDY, root, tmp_path, root / ".jax"))
    finally:
        (job.folder.path / "model.zip").unlink()
        (job.folder.path / "model.moe").write_bytes(kept)
        (job.folder.path / "done.json").write_text(done)
    assert lines[0].startswith("no replay of dense: ")
    assert lines[0].endswith("has no model.moe, since code of your own is in its model")
    assert [path.name for path in (tmp_path / "replays").iterdir()] == ["soft-middle.html"]
    assert lines[1].startswith("replay: ")
