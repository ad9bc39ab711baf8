"""Runs of all kinds are trained in their folders, stop, go on, and begin with trained models."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

import sb3_moe
from sb3_moe.callbacks import TaskRolloutCallback
from sb3_moe.policies.networks import networks_of
from sb3_moe.saving.files import read_json, write_json
from sb3_moe.saving.model_file import load
from sb3_moe.study import training
from sb3_moe.study.building import Named, build
from sb3_moe.study.config import Architecture, Evaluation, RunConfig, StartFrom, read_study
from sb3_moe.study.folder import RunFolder, steps_in
from sb3_moe.study.preparing import check_networks
from sb3_moe.study.training import begin_with, start_of, train_run
from sb3_moe_envs import SUITES, Cycle, register_suite

CLASSIC = tuple((name, {"max_episode_steps": 20}) for name in ("CartPole-v1", "Acrobot-v1"))
PENDULUMS = (
    ("sb3_moe_envs:SB3MoE/Pendulum-v0", {"max_episode_steps": 20}),
    ("sb3_moe_envs:SB3MoE/Pendulum-v0", {"max_episode_steps": 20, "g": 3.7}),
)
SMALL = {"placement": "middle", "num_experts": 2, "net_arch": [8]}
DENSE = {"placement": "none", "net_arch": [8]}
STORED = {"buffer_size": 200, "learning_starts": 16, "batch_size": 8, "gradient_steps": 1}
ON_POLICY = {"arguments": {"n_steps": 8, "batch_size": 8}, "preset": "none"}
KEYS = {"norm_obs_keys": ["obs"]}
OFF_POLICY = {"algorithm": "DQN", "arguments": STORED}


def config(tasks=CLASSIC, callbacks=(), policy_kwargs=SMALL, **values):
    network = Architecture(name="soft", policy_kwargs=policy_kwargs, callbacks=callbacks)
    defaults = {"regime": "mtrl", "n_envs": 2, "steps_per_task": 64, "checkpoints": 7}
    defaults |= {"evaluation": Evaluation(points=4, episodes=1)}
    return RunConfig(tasks=tasks, architecture=network, **{**defaults, **values})


RUNS = {
    "PPO": config(**ON_POLICY),
    "DQN with ReDo": config(
        callbacks=(Named(name="ReDoCallback", arguments={"every": 20, "tau": 0.5}),),
        algorithm="DQN", arguments={**STORED, "learning_rate": 1e-3},
        regime="crl", order=("CartPole", "Acrobot"), annealing="block",
    ),
    "SAC normalized by task": config(
        PENDULUMS, algorithm="SAC", arguments=STORED, normalize=Named(name="PerTaskVecNormalize")
    ),
    "MaskablePPO by a rule": config(
        algorithm="MaskablePPO", arguments={"n_steps": 8, "batch_size": 8},
        regime="schedule",
        schedule=Named(name="Adaptive", arguments={"rule": "steps>=48"}),
        normalize=Named(name="VecNormalize"),
    ),
    "RecurrentPPO": config(
        algorithm="RecurrentPPO", arguments={"n_steps": 8, "batch_size": 8},
        policy_kwargs={**SMALL, "lstm_hidden_size": 4},
    ),
}  # fmt: skip


def stopped(folder, run, step, monkeypatch):
    """Train until a power cut after the rollout that reaches a step."""
    ends = TaskRolloutCallback._on_rollout_end

    def power_cut(self):
        ends(self)
        if self.num_timesteps >= step:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(TaskRolloutCallback, "_on_rollout_end", power_cut)
        with pytest.raises(KeyboardInterrupt):
            train_run(run, folder)


def assert_same(one, other):
    """Compare what runs measured, but the change since a measurement of another process."""
    for folder in (one, other):
        assert folder.state() == ("done", "")
    np.testing.assert_equal(one.scores(), other.scores())
    before, after = (
        {k: v for k, v in each.diagnostics().items() if not k.startswith("weight_change/")}
        for each in (one, other)
    )
    np.testing.assert_equal(before, after)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    train_run(RUNS["PPO"], folder)
    return folder


# The others take as long, and break seldom alone.
OFTEN = ("PPO", "DQN with ReDo")


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.full) for name in RUNS]
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(name, whole, tmp_path, monkeypatch):
    if RUNS[name].algorithm in ("MaskablePPO", "RecurrentPPO"):
        pytest.importorskip("sb3_contrib")
    folder = RunFolder(tmp_path / "stopped")
    if name != "PPO":
        whole = RunFolder(tmp_path / "whole")
        train_run(RUNS[name], whole)
    assert RunConfig.from_dict(whole.config()["run"]) == RUNS[name]
    stopped(folder, RUNS[name], 80, monkeypatch)
    assert folder.state() == ("interrupted", "")
    train_run(RUNS[name], folder)
    assert len(list(folder.path.glob("progress-*.csv"))) == 2
    assert_same(whole, folder)


def test_a_run_leaves_what_the_contract_says(whole):
    names = {path.name for path in whole.path.iterdir()}
    assert {"config.json", "scores.npz", "diagnostics.npz", "done.json", "model.moe"} <= names
    assert "progress-000000000.csv" in names
    assert "checkpoints" not in names  # they are large, and nothing needs them any more
    assert {"versions", "arguments", "run"} <= set(whole.config())
    scores, row = whole.scores(), whole.last_logged()
    assert scores["steps"].tolist() == [0, 16, 32, 48, 64, 80, 96, 112, 128]
    assert np.array_equal(scores["score"], scores["returns"].mean(-1))
    assert any(name.startswith("dormant/") for name in whole.diagnostics())
    assert whole.diagnostics()["gates/pi.middle"].shape == (9, 2, 2)
    assert (steps_in(row), float(row["rollout/CartPole/ep_rew_mean"]) > 0) == (128, True)
    assert sb3_moe.load(whole.path / "model.moe").num_timesteps == 128


def test_a_damaged_snapshot_is_left_for_an_earlier_one(whole, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    stopped(folder, RUNS["PPO"], 80, monkeypatch)
    earlier, latest = folder.snapshots()
    latest.write_bytes(latest.read_bytes()[:-1])
    assert folder.snapshots() == [earlier]
    train_run(RUNS["PPO"], folder)
    assert_same(whole, folder)


def test_a_snapshot_that_another_version_wrote_is_an_error_with_a_cure(tmp_path, monkeypatch):
    def resume(path, device):
        raise AttributeError("no class Old")

    stopped(RunFolder(tmp_path), RUNS["PPO"], 48, monkeypatch)
    monkeypatch.setattr(training, "resume", resume)
    with pytest.raises(RuntimeError, match=r"can't be resumed \(AttributeError: no .*--retry"):
        train_run(RUNS["PPO"], RunFolder(tmp_path))


class Own(nn.Tanh):
    pass


def test_a_model_with_code_of_ones_own_is_left_as_sb3s_zip(tmp_path):
    policy = {**DENSE, "activation_fn": f"{__name__}:Own"}
    train_run(config(algorithm="DQN", arguments=STORED, policy_kwargs=policy), RunFolder(tmp_path))
    assert DQN.load(tmp_path / "model.zip").num_timesteps == 128
    assert not list(tmp_path.glob("**/model.moe"))


def test_a_callback_that_a_file_names_takes_the_place_of_the_studys_own(tmp_path):
    own = Named(name="PlasticityCallback", arguments={"every": 64, "taus": [0.5]})
    folder = RunFolder(tmp_path)
    train_run(config(callbacks=(own,), **ON_POLICY), folder)
    measures = {name.split("/")[0] for name in folder.diagnostics()}
    assert "dormant@0.1" not in measures
    assert "dormant" in measures


OF_ONES_OWN = """{name: own, tasks: Own/Two, preset: none, regimes: [mtrl], seeds: 1, n_envs: 2,
arguments: {n_steps: 8, batch_size: 8}, steps_per_task: 32, evaluation: {points: 1, episodes: 1},
callbacks: [{"own_parts:Marks": {every: 16}}],
architectures: {soft: {placement: middle, num_experts: 2, net_arch: [8]}}}"""


def test_a_suite_and_a_callback_of_ones_own_are_in_a_study(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_moe_envs.suites.SUITES", dict(SUITES))
    tasks = ["CartPole-v1", ("Acrobot-v1", {"max_episode_steps": 20})]
    register_suite("Own/Two", tasks, Cycle(16))
    (run,) = read_study(OF_ONES_OWN, Path()).runs()
    folder = RunFolder(tmp_path)
    train_run(run, folder)
    assert folder.state() == ("done", "")
    assert run.games == ("CartPole", "Acrobot")
    assert "marks/count" in next(tmp_path.glob("progress-*.csv")).read_text().splitlines()[0]


# Runs that begin with a trained model.


def first(**values):
    one = config(policy_kwargs=DENSE, **{"regime": "crl", "order": ("CartPole",), **values})
    return replace(one, architecture=replace(one.architecture, name="dense"))


def second(one, policy_kwargs=SMALL, start=None, **values):
    start = start or StartFrom(architecture="dense", order=("CartPole",))
    grown = Architecture(name="grown", policy_kwargs=policy_kwargs, start_from=start)
    return replace(one, architecture=grown, order=("Acrobot",), **values)


def outputs(model, obs):
    with th.no_grad():
        return networks_of(model.policy).outputs(model.policy.obs_to_tensor(obs)[0])


def saved(run, path):
    """Save a new model of a run."""
    model, env = build(run)
    sb3_moe.save(model, path)
    env.close()
    return model


@pytest.mark.parametrize(
    ("values", "policy_kwargs"), [(ON_POLICY, SMALL), (OFF_POLICY, DENSE)], ids=["grown", "dense"]
)
def test_a_run_begins_with_what_the_other_ended_with(tmp_path, values, policy_kwargs, monkeypatch):
    one = first(**values)
    train_run(one, RunFolder(tmp_path / one.name))
    two = second(one, policy_kwargs)
    folder = RunFolder(tmp_path / two.name)
    stopped(folder, two, 32, monkeypatch)
    said = read_json(folder.path / "start_from.json")
    assert (said["model"], said["steps"]) == (f"{one.name}/model.moe", one.total_steps)
    assert said["upcycled"] == (policy_kwargs is SMALL)
    trained, (model, env) = load(tmp_path / one.name / "model.moe"), build(two)
    obs = env.reset()
    begin_with(model, two, start_of(two, tmp_path))
    before, after = outputs(trained, obs), outputs(model, obs)
    for network, values_B in before.items():
        th.testing.assert_close(after[network], values_B, rtol=1e-5, atol=1e-5)
    assert model.num_timesteps == 0
    assert model.policy.optimizer.state
    env.close()
    # What goes on from a snapshot does not begin again.
    (tmp_path / one.name / "model.moe").unlink()
    train_run(two, folder)
    assert folder.state().status == "done"


def test_a_start_that_is_not_there_or_does_not_fit_is_named(tmp_path):
    one = first(**ON_POLICY)
    with pytest.raises(ValueError, match=r"`architectures.grown.start_from` .*model.moe, which"):
        start_of(second(one), tmp_path)
    (tmp_path / "bad.moe").write_bytes(b"no model")
    start = StartFrom(model=str(tmp_path / "bad.moe"))
    begun = tmp_path / "crl-Acrobot-grown-s0"
    write_json(begun / "start_from.json", {"sha256": "another"})
    write_json(begun / "config.json", {"run": {"architecture": {"name": "grown"}}})
    with pytest.raises(ValueError, match=r"must be the file that .*grown-s0 began with, got an"):
        start_of(second(one, start=start), tmp_path)
    with pytest.raises(ValueError, match=r"`start_from` can't load .*bad.moe \(UnsafeFileError"):
        check_networks([second(one, start=start)])
    wide = second(one, {**SMALL, "net_arch": [16]})
    with pytest.raises(ValueError, match=r"'grown' can't be built: .*start_from` doesn't fit: "):
        check_networks([one, wide])
    for other, said in (
        (first(**OFF_POLICY), "doesn't fit: it is of DQN, not PPO"),
        (replace(one, tasks=CLASSIC[::-1], games=()), ".* must have the model's tasks"),
    ):
        saved(other, tmp_path / "other.moe")
        start = StartFrom(model=str(tmp_path / "other.moe"))
        with pytest.raises(ValueError, match=f"start_from` {said}"):
            check_networks([second(one, start=start)])
    # Whose observations were normalized, as those of the study are not.
    saved(first(**ON_POLICY, normalize=Named(name="VecNormalize")), tmp_path / "normalized.moe")
    start = StartFrom(model=str(tmp_path / "normalized.moe"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"can't load .*WrapperLeftOutWarning"):
            check_networks([second(one, start=start)])


class Norm(VecNormalize):
    pass


@pytest.mark.parametrize("activation", ["torch.nn:ReLU", f"{__name__}:Own"])
@pytest.mark.parametrize("normalize", [Named(name=f"{__name__}:Norm"), None], ids=["own", "none"])
def test_statistics_and_weights_of_classes_of_ones_own_are_begun_with(
    activation, normalize, tmp_path
):
    one = first(**ON_POLICY, normalize=normalize and replace(normalize, arguments=KEYS))
    options = {**DENSE, "activation_fn": activation}
    one = replace(one, architecture=replace(one.architecture, policy_kwargs=options))
    trained, env = build(one)
    trained.learn(16)
    training._write_model(trained, tmp_path)
    (path,) = tmp_path.glob("model.*")
    slower = {"optimizer_class": "torch.optim:SGD"}  # which has no use for Adam's averages
    two = second(one, {**options, **slower}, StartFrom(model=str(path)))
    model, new = build(two)
    begin_with(model, two, path)
    for mine, other in zip(model.policy.parameters(), trained.policy.parameters(), strict=True):
        assert th.equal(mine, other)
    assert not model.policy.optimizer.state
    if normalize is not None:
        assert new.obs_rms["obs"].count == env.obs_rms["obs"].count > 16


def test_each_seed_draws_its_own_actions_whatever_the_seed_of_the_file_was(tmp_path):
    one, drawn = first(**ON_POLICY), []
    saved(one, tmp_path / "a.moe")
    start = StartFrom(model=str(tmp_path / "a.moe"))
    for seed in (1, 2, 1):
        grown = second(one, start=start, seed=seed)
        model, env = build(grown)
        begin_with(model, grown, tmp_path / "a.moe")
        drawn.append((th.rand(1).item(), env.reset()["obs"].tolist()))
        env.close()
    assert drawn[0] == drawn[2]
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]
