"""Cells of other algorithms than PPO stop and go on as PPO's do."""

import numpy as np
import pytest
from stable_baselines3 import DQN
from torch import nn

from sb3_moe.study.run.cell import train_cell
from sb3_moe.study.run.folder import CellFolder
from sb3_moe.study.run.view import Heartbeat
from sb3_moe.study.spec.config import Architecture, CellConfig, Evaluation
from sb3_moe.study.spec.named import Named

CLASSIC = tuple((name, {"max_episode_steps": 20}) for name in ("CartPole-v1", "Acrobot-v1"))
PENDULUMS = (
    ("sb3_moe_envs:SB3MoE/Pendulum-v0", {"max_episode_steps": 20}),
    ("sb3_moe_envs:SB3MoE/Pendulum-v0", {"max_episode_steps": 20, "g": 3.7}),
)
# Single games, whose emulator can be copied; ale-py's own vector environment has no state to save.
ATARI = tuple(
    (f"ale_py:ALE/{game}-v5", {"obs_type": "ram", "max_num_frames_per_episode": 80})
    for game in ("Pong", "Breakout")
)
SMALL = {"placement": "middle", "num_experts": 2, "net_arch": [8]}
STORED = {"buffer_size": 200, "learning_starts": 16, "batch_size": 8, "gradient_steps": 1}
REDO = Named(name="ReDoCallback", arguments={"every": 20, "tau": 0.5})


def cell(tasks, callbacks=(), policy_kwargs=SMALL, **values):
    architecture = Architecture(name="soft", policy_kwargs=policy_kwargs, callbacks=callbacks)
    defaults = {
        "regime": "mtrl",
        "n_envs": 2,
        "steps_per_task": 64,
        "evaluation": Evaluation(points=4, episodes=1),
        "checkpoints": 7,
    }
    return CellConfig(tasks=tasks, architecture=architecture, **{**defaults, **values})


CELLS = {
    "DQN that explores": cell(
        CLASSIC, algorithm="DQN", evaluation=Evaluation(points=4, episodes=8), arguments={
            **STORED, "exploration_initial_eps": 0.5, "exploration_final_eps": 0.5,
        },
    ),
    "DQN with ReDo": cell(
        CLASSIC, (REDO,), algorithm="DQN", arguments={**STORED, "learning_rate": 1e-3},
        regime="crl", order=("CartPole", "Acrobot"), annealing="block",
    ),
    "SAC normalised by task": cell(
        PENDULUMS, algorithm="SAC", arguments=STORED, normalize=Named(name="PerTaskVecNormalize")
    ),
    "MaskablePPO by a rule": cell(
        CLASSIC, algorithm="MaskablePPO", arguments={"n_steps": 8, "batch_size": 8},
        regime="schedule",
        schedule=Named(name="Adaptive", arguments={"rule": "steps>=48"}),
        normalize=Named(name="VecNormalize"),
    ),
    "TD3 with noise": cell(
        PENDULUMS, algorithm="TD3", env={"task_id": "onehot"},
        arguments={**STORED, "action_noise": {
            "stable_baselines3.common.noise:NormalActionNoise": {"mean": [0.0], "sigma": [0.1]}
        }},
    ),
    "PPO on Atari": cell(
        ATARI, algorithm="PPO", preset="none", arguments={"n_steps": 8, "batch_size": 8},
    ),
    "RecurrentPPO": cell(
        CLASSIC, algorithm="RecurrentPPO", arguments={"n_steps": 8, "batch_size": 8},
        policy_kwargs={**SMALL, "lstm_hidden_size": 4},
    ),
}  # fmt: skip


def stopped(folder, cell, step, monkeypatch):
    """Train until a power cut after the rollout that reaches a step."""
    beat = Heartbeat._on_rollout_end

    def power_cut(self):
        beat(self)
        if self.num_timesteps >= step:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(Heartbeat, "_on_rollout_end", power_cut)
        with pytest.raises(KeyboardInterrupt):
            train_cell(cell, folder)


@pytest.mark.parametrize("name", list(CELLS))
def test_a_cell_that_was_stopped_ends_as_one_that_was_not(name, tmp_path, monkeypatch):
    if CELLS[name].algorithm in ("MaskablePPO", "RecurrentPPO"):
        pytest.importorskip("sb3_contrib")
    if CELLS[name].tasks == ATARI:
        pytest.importorskip("ale_py")
    whole, folder = CellFolder(tmp_path / "whole"), CellFolder(tmp_path / "stopped")
    train_cell(CELLS[name], whole)
    assert whole.state() == ("done", "")
    assert CellConfig.from_dict(whole.config()["cell"]) == CELLS[name]
    assert whole.live()["steps"] == CELLS[name].total_steps == 128
    stopped(folder, CELLS[name], 80, monkeypatch)
    assert folder.state() == ("interrupted", "")
    train_cell(CELLS[name], folder)
    assert folder.state() == ("done", "")
    assert len(list(folder.path.glob("progress-*.csv"))) == 2
    for before, after in (
        (whole.scores(), folder.scores()),
        (whole.diagnostics(), folder.diagnostics()),
    ):
        assert set(before) == set(after)
        for key, values in before.items():
            if not key.startswith("weight_change/"):
                np.testing.assert_array_equal(after[key], values, err_msg=key)


def test_a_replay_buffer_that_was_cut_short_is_left_for_an_earlier_snapshot(tmp_path, monkeypatch):
    folder = CellFolder(tmp_path)
    stopped(folder, CELLS["DQN with ReDo"], 80, monkeypatch)
    earlier, latest = folder.snapshots()
    buffer = latest / "replay_buffer.pkl"
    buffer.write_bytes(buffer.read_bytes()[:-1])
    assert folder.snapshots() == [earlier]
    assert "replay_buffer.pkl is not what the run wrote" in folder.state().reason


def test_a_model_with_code_of_ones_own_is_left_as_sb3s_zip(tmp_path):
    policy = {"placement": "none", "net_arch": [8], "activation_fn": f"{__name__}:Own"}
    cell_of_own = cell(CLASSIC, algorithm="DQN", arguments=STORED, policy_kwargs=policy)
    train_cell(cell_of_own, CellFolder(tmp_path))
    assert DQN.load(tmp_path / "model.zip").num_timesteps == 128
    assert not list(tmp_path.glob("**/model.moe"))
    assert not list(tmp_path.glob(".model*"))


class Own(nn.Tanh):
    pass


def test_networks_are_looked_at_on_an_observation_of_each_task_however_many_there_are(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("sb3_moe.study.run.cell.PROBE", 1)
    the_cell, folder = CELLS["DQN with ReDo"], CellFolder(tmp_path)
    train_cell(the_cell, folder)
    assert len(the_cell.games) > 1
    assert folder.state().status == "done"


def test_a_callback_that_a_file_names_takes_the_place_of_the_studys_own(tmp_path):
    own = Named(name="PlasticityCallback", arguments={"every": 64, "taus": [0.5]})
    changed = CELLS["DQN with ReDo"].to_dict() | {"callbacks": [{own.name: own.arguments}]}
    folder = CellFolder(tmp_path)
    train_cell(CellConfig.from_dict(changed), folder)
    measures = {name.split("/")[0] for name in folder.diagnostics()}
    assert "dormant@0.1" not in measures
    assert "dormant" in measures
