"""Cells that begin with a trained model."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecNormalize
from test_any_cell import CLASSIC, SMALL, STORED, cell

import sb3_moe
from sb3_moe.growing.models import carry_the_rest
from sb3_moe.saving.files import read_json
from sb3_moe.saving.model_file import load
from sb3_moe.study.run.cell import build, train_cell
from sb3_moe.study.run.folder import CellFolder
from sb3_moe.study.run.jobs import changes, survey
from sb3_moe.study.run.rehearsal import check_networks
from sb3_moe.study.run.starting import begin_with, start_of
from sb3_moe.study.spec.config import Architecture, StartFrom
from sb3_moe.study.spec.named import Named

DENSE = {"placement": "none", "net_arch": [8]}
ON_POLICY = {"arguments": {"n_steps": 8, "batch_size": 8}, "preset": "none"}
OFF_POLICY = {"algorithm": "DQN", "arguments": STORED}


def first(**values):
    values = {"regime": "crl", "order": ("CartPole",), **values}
    one = cell(CLASSIC, policy_kwargs=DENSE, **values)
    return replace(one, architecture=replace(one.architecture, name="dense"))


def second(one, policy_kwargs=SMALL, start=None, **values):
    start = start or StartFrom(architecture="dense", order=("CartPole",))
    grown = Architecture(name="grown", policy_kwargs=policy_kwargs, start_from=start)
    return replace(one, architecture=grown, order=("Acrobot",), **values)


def outputs(model, obs):
    with th.no_grad():
        return sb3_moe.networks.networks_of(model.policy).outputs(
            model.policy.obs_to_tensor(obs)[0]
        )


@pytest.mark.covering
@pytest.mark.parametrize("values", [ON_POLICY, OFF_POLICY], ids=["PPO", "DQN"])
@pytest.mark.parametrize("policy_kwargs", [SMALL, DENSE], ids=["upcycled", "dense"])
def test_a_cell_begins_with_what_the_other_ended_with(tmp_path, values, policy_kwargs):
    one = first(**values)
    train_cell(one, CellFolder(tmp_path / one.name))
    two = second(one, policy_kwargs)
    folder = CellFolder(tmp_path / two.name)
    train_cell(two, folder)
    assert folder.state().status == "done"
    said = read_json(folder.path / "start_from.json")
    assert said["model"] == f"{one.name}/model.moe"
    assert said["steps"] == one.total_steps
    assert said["upcycled"] == ("copy" if policy_kwargs is SMALL else None)

    trained, (model, env) = load(tmp_path / one.name / "model.moe"), build(two)
    obs = env.reset()
    begin_with(model, two, start_of(two, tmp_path))
    before, after = outputs(trained, obs), outputs(model, obs)
    for tower, values_B in before.items():
        th.testing.assert_close(after[tower], values_B, rtol=1e-5, atol=1e-5)
    assert model.num_timesteps == 0
    assert model.policy.optimizer.state
    env.close()


def test_a_cell_that_goes_on_from_a_snapshot_does_not_begin_again(tmp_path, monkeypatch):
    from test_any_cell import stopped

    one = first(**ON_POLICY)
    train_cell(one, CellFolder(tmp_path / one.name))
    two, folders = second(one), [CellFolder(tmp_path / "a" / "x"), CellFolder(tmp_path / "b" / "x")]
    for each in ("a", "b"):
        (tmp_path / each / one.name).parent.mkdir()
        (tmp_path / each / one.name).symlink_to(tmp_path / one.name)
    train_cell(two, folders[0])
    stopped(folders[1], two, 32, monkeypatch)
    (tmp_path / "b" / one.name).unlink()
    train_cell(two, folders[1])
    np.testing.assert_array_equal(*(folder.scores()["returns"] for folder in folders))


def test_a_study_can_be_read_where_its_model_lies_elsewhere(tmp_path):
    one = first(**ON_POLICY)
    here = second(one, start=StartFrom(model="/home/me/agent.moe"))
    CellFolder(tmp_path / "cells" / here.name).start({"cell": here.to_dict()})

    def lines(model):
        cells = [second(one, start=StartFrom(model=model))]
        return [line for job in survey(cells, tmp_path) for line in changes(job)]

    assert lines("/data/agent.moe") == []
    assert lines("/home/me/other.moe") == [
        "architecture.start_from.model: 'agent.moe' -> 'other.moe'"
    ]


def test_a_start_that_is_not_there_or_does_not_fit_is_named(tmp_path):
    one = first(**ON_POLICY)
    with pytest.raises(ValueError, match=r"`architectures.grown.start_from` .*model.moe, which"):
        start_of(second(one), tmp_path)
    lost = second(one, start=StartFrom(model=str(tmp_path / "lost.moe")))
    with pytest.raises(ValueError, match=r"must name a trained model, got .*lost.moe, which isn't"):
        start_of(lost, tmp_path)
    (tmp_path / "bad.moe").write_bytes(b"no model")
    model, env = build(second(one))
    with pytest.raises(ValueError, match=r"`start_from` can't load .*bad.moe \(UnsafeFileError"):
        begin_with(model, second(one), tmp_path / "bad.moe")
    env.close()


def test_networks_that_do_not_fit_are_found_out_before_any_cell_starts(tmp_path):
    one = first(**ON_POLICY)
    check_networks([one, second(one)])
    wide = second(one, {**SMALL, "net_arch": [16]})
    with pytest.raises(ValueError, match=r"'grown' can't be built: .*start_from` doesn't fit: "):
        check_networks([one, wide])
    other = first(**OFF_POLICY)
    path = tmp_path / "dqn.moe"
    model, env = build(other)
    sb3_moe.save(model, path)
    env.close()
    with pytest.raises(ValueError, match=r"start_from` must be a model of PPO, got DQN"):
        check_networks([second(one, start=StartFrom(model=str(path)))])


def test_each_seed_draws_its_own_actions_whatever_the_seed_of_the_file_was(tmp_path):
    one = first(**ON_POLICY)
    model, env = build(one)
    sb3_moe.save(model, tmp_path / "a.moe")
    env.close()
    start, drawn = StartFrom(model=str(tmp_path / "a.moe")), []
    for seed in (1, 2, 1):
        grown = second(one, start=start, seed=seed)
        model, env = build(grown)
        begin_with(model, grown, tmp_path / "a.moe")
        drawn.append((th.rand(1).item(), env.reset()["obs"].tolist()))
        env.close()
    assert drawn[0] == drawn[2]
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


def test_a_model_of_other_tasks_is_refused(tmp_path):
    one = first(**ON_POLICY)
    model, env = build(replace(one, tasks=CLASSIC[::-1], games=()))
    sb3_moe.save(model, tmp_path / "a.moe")
    env.close()
    start = StartFrom(model=str(tmp_path / "a.moe"))
    with pytest.raises(ValueError, match=r"'grown' can't be built: .*start_from` doesn't fit: "):
        check_networks([second(one, start=start)])


def test_a_pickled_model_brings_the_statistics_of_what_it_saw(tmp_path):
    own = {"router": "own_parts:Tempered", "net_arch": [8], "num_experts": 2}
    one = first(**ON_POLICY, normalize=Named(name="PerTaskVecNormalize"))
    one = replace(one, architecture=replace(one.architecture, policy_kwargs=own))
    train_cell(one, CellFolder(tmp_path / one.name))
    two = second(one, own)
    path = start_of(two, tmp_path)
    assert path.name == "model.zip"
    model, env = build(two)
    begin_with(model, two, path)
    saved = VecNormalize.load(str(path.with_name("vec_normalize.pkl")), env.venv)
    obs = VecNormalize.load(str(path.with_name("vec_normalize.pkl")), env.venv).reset()
    np.testing.assert_equal(env.normalize_obs(obs), saved.normalize_obs(obs))
    np.testing.assert_equal(env.ret_rms.of(np.arange(2)), saved.ret_rms.of(np.arange(2)))
    assert (env.ret_rms.of(np.arange(2))[1] != 1).any()
    path.with_name("vec_normalize.pkl").unlink()
    with pytest.raises(ValueError, match=r"statistics of what the model saw are missing: save its"):
        begin_with(model, two, path)
    env.close()


def test_a_temperature_that_one_model_learns_and_the_other_does_not_is_named():
    space = gym.make("Pendulum-v1")
    learned = SAC("MlpPolicy", space, learning_starts=4).learn(8)
    fixed = SAC("MlpPolicy", space, ent_coef=0.1)
    with pytest.raises(ValueError, match=r"`log_ent_coef` is learned by the old .* `ent_coef`"):
        carry_the_rest(fixed, learned)


def test_seeds_that_are_added_begin_with_the_file_that_the_others_began_with(tmp_path):
    one, path = first(**ON_POLICY), tmp_path / "agent.moe"
    model, env = build(one)
    sb3_moe.save(model, path)
    env.close()
    begun = second(one, start=StartFrom(model=str(path)))
    train_cell(begun, CellFolder(tmp_path / "cells" / begun.name))
    added = replace(begun, seed=7)
    assert start_of(added, tmp_path / "cells") == path
    model.policy.optimizer.param_groups[0]["lr"] = 0.5
    sb3_moe.save(model, path)
    with pytest.raises(ValueError, match=r"start_from` must be the file .*grown-s0 began wi"):
        start_of(added, tmp_path / "cells")
