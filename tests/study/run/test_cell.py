import errno
import pickle

import numpy as np
import pytest
from stable_baselines3.common.logger import CSVOutputFormat

import sb3_moe
from sb3_moe.saving.files import write_json
from sb3_moe.study.run import cell as cell_module
from sb3_moe.study.run.cell import train_cell
from sb3_moe.study.run.engine import work
from sb3_moe.study.run.folder import CellFolder
from sb3_moe.study.run.random_policy import random_returns, read_returns
from sb3_moe.study.run.view import Heartbeat
from sb3_moe.study.spec.architectures import named_architecture
from sb3_moe.study.spec.config import CellConfig, Evaluation

# Ten copies, as in an evaluation: the game is compiled once.
CELL = CellConfig(
    regime="mtrl",
    games=("Breakout",),
    architecture=named_architecture("soft-big"),
    n_envs=10,
    steps_per_task=4 * 1280,
    arguments={"batch_size": 640, "n_epochs": 1},
    evaluation=Evaluation(points=2, episodes=10),
    checkpoints=3,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = CellFolder(tmp_path_factory.mktemp("whole"))
    train_cell(CELL, folder)
    return folder


def test_a_cell_leaves_what_the_contract_says(whole):
    assert whole.state() == ("done", "")
    names = {path.name for path in whole.path.iterdir()}
    assert {
        "config.json",
        "scores.npz",
        "diagnostics.npz",
        "progress-000000000.csv",
        "model.moe",
        "checkpoints",
        "done.json",
    } <= names
    assert CellConfig.from_dict(whole.config()["cell"]) == CELL
    assert {"versions", "hardware", "command", "arguments"} <= set(whole.config())
    scores = whole.scores()
    assert scores["steps"].tolist() == [0, 2560, 5120]
    assert scores["returns"].shape == (3, 1, 10)
    assert np.array_equal(scores["score"], scores["returns"].mean(-1))
    diagnostics = whole.diagnostics()
    assert any(name.startswith("dormant/") for name in diagnostics)
    assert diagnostics["gates/pi.big"].shape == (3, 1, 4)
    live = whole.live()
    assert live["steps"] == live["total_steps"] == 5120
    assert list(live["returns"]) == ["Breakout"]


def test_the_model_can_be_loaded_and_plays(whole):
    model = sb3_moe.load(whole.path / "model.moe")
    assert model.num_timesteps == 5120


@pytest.mark.parametrize(("damaged", "start"), [(False, 2560), (True, 1280)])
def test_a_cell_that_was_stopped_ends_with_the_scores_of_one_that_was_not(
    whole, tmp_path, monkeypatch, damaged, start
):
    folder = CellFolder(tmp_path)
    beat = Heartbeat._on_rollout_end

    def power_cut(self):
        beat(self)
        if self.num_timesteps == 3840:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(Heartbeat, "_on_rollout_end", power_cut)
        with pytest.raises(KeyboardInterrupt):
            train_cell(CELL, folder)
    assert folder.state().status == "interrupted"
    earlier, latest = folder.checkpoints()
    assert (earlier.name, latest.name) == ("step-000000001280", "step-000000002560")
    if damaged:
        (latest / "model.zip").write_bytes((latest / "model.zip").read_bytes()[:1000])
    train_cell(CELL, folder)
    assert folder.state() == ("done", "")
    assert (folder.path / f"progress-{start:09d}.csv").exists()
    for before, after in (
        (whole.scores(), folder.scores()),
        (whole.diagnostics(), folder.diagnostics()),
    ):
        assert set(before) == set(after)
        for name, values in before.items():
            if name.startswith("weight_change/"):
                continue  # since the measurement before, which the stopped run made
            np.testing.assert_array_equal(after[name], values, err_msg=name)


class TwoSnapshots(CellFolder):
    def snapshots(self):
        return [self.path / "step-1", self.path / "step-2"]


def test_a_snapshot_that_turns_out_damaged_is_left_for_an_earlier_one(
    tmp_path, monkeypatch, capsys
):
    def resume(path, device):
        if path.name == "step-2":
            raise pickle.UnpicklingError("invalid load key")
        return path.name

    monkeypatch.setattr(cell_module, "resume", resume)
    assert cell_module._restored(CELL, TwoSnapshots(tmp_path)) == "step-1"
    assert "step-2 is damaged" in capsys.readouterr().out


def test_a_snapshot_that_another_version_wrote_is_an_error_with_a_cure(tmp_path, monkeypatch):
    def resume(path, device):
        raise AttributeError("no class Old")

    monkeypatch.setattr(cell_module, "resume", resume)
    with pytest.raises(RuntimeError, match=r"step-2 can't be gone on from \(AttributeError: no .*"):
        cell_module._restored(CELL, TwoSnapshots(tmp_path))


def test_the_returns_of_other_games_or_of_fewer_episodes_are_refused(tmp_path):
    path = tmp_path / "random.json"
    write_json(path, {"Breakout": [1.0] * 20})
    assert read_returns(path, ("Breakout",), episodes=15) == {"Breakout": [1.0] * 20}
    with pytest.raises(ValueError, match=r"returns of 30 episodes of Breakout, .* got 20"):
        read_returns(path, ("Breakout",), episodes=21)
    with pytest.raises(ValueError, match=r"random.json must be of Asterix, got Breakout"):
        read_returns(path, ("Asterix",), episodes=15)
    path.write_text('{"Breakout": [1')
    with pytest.raises(ValueError, match=r"random.json can't be read"):
        read_returns(path, ("Breakout",), episodes=15)


def test_the_random_policy_is_measured_the_same_way_twice():
    first = random_returns(("Breakout",), episodes=15, seed=3)["Breakout"]
    assert len(first) == 20  # two episodes of each of ten copies
    assert 0.0 < first.mean() < 2.0
    again = random_returns(("Breakout",), episodes=15, seed=3)["Breakout"]
    assert np.array_equal(first, again)


def test_a_full_disk_is_said_with_the_file_that_could_not_be_written(tmp_path, monkeypatch):
    def full(self, *args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(CSVOutputFormat, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: .*progress-000000000.csv"):
        train_cell(CELL, CellFolder(tmp_path))


def test_a_full_disk_without_a_file_is_said_with_the_runs_folder(tmp_path, monkeypatch):
    def full(cell, folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cell_module, "train_cell", full)
    work(CELL.to_dict(), str(tmp_path))
    reason = CellFolder(tmp_path).state().reason
    assert reason == f"OSError: [Errno 28] No space left on device: '{tmp_path}'"
