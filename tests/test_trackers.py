"""What examples/trackers.md says of trackers: offline logs, read back by the trackers' own code."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.full
PAGE = Path(__file__).parents[1] / "examples" / "trackers.md"
GROUPS = {"rollout", "time", "train", "eval", "moe", "plasticity"}


def run_snippet(first, monkeypatch, folder):
    """Run the page's code that imports a tracker, with fewer steps."""
    monkeypatch.chdir(folder)
    codes = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (code,) = [each for each in codes if f"import {first}\n" in each]
    code = code.replace("10_000", "512").replace("1_000", "256")
    namespace = {"__name__": "snippet"}
    exec(compile(code, str(PAGE), "exec"), namespace)
    return namespace


def check_names(names):
    assert {name.partition("/")[0] for name in names} >= GROUPS
    assert {"eval/Moon/mean_reward", "moe/entropy/pi.middle"} <= set(names)


@pytest.mark.filterwarnings("ignore")  # those of other people's code
def test_mlflow_takes_every_number(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    run_snippet("mlflow", monkeypatch, tmp_path)
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs(["0"])
    check_names(run.data.metrics)
    entropies = client.get_metric_history(run.info.run_id, "moe/entropy/pi.middle")
    assert all(0 <= each.value <= 1 for each in entropies)


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_every_group(tmp_path, monkeypatch):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run_snippet("wandb", monkeypatch, tmp_path)
    (folder,) = tmp_path.glob("runs/*/PPO_1")
    found = accumulators.EventAccumulator(str(folder)).Reload()
    check_names(found.Tags()["scalars"])
