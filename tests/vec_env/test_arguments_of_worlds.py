"""Wrong arguments of worlds are named: the misspelt with what was meant, others with the rule."""

import pytest

from sb3_moe import make_multitask_vec_env
from sb3_moe_envs import Cycle, MultiTaskEnv

TASKS = ["CartPole-v1", "Acrobot-v1"]


@pytest.mark.parametrize("name", ["n_env", "num_envs"])
def test_an_unknown_argument_is_named(name):
    with pytest.raises(TypeError, match=f"argument '{name}'"):
        make_multitask_vec_env(TASKS, **{name: 2})


def test_a_misspelt_suite_is_named_with_its_neighbour():
    with pytest.raises(ValueError, match=r"got 'MinAtar/MTRL'; did you mean 'MinAtar/MTRL3'\?"):
        make_multitask_vec_env("MinAtar/MTRL")
    with pytest.raises(ValueError, match=r"got 'zz'$"):
        make_multitask_vec_env("zz")


@pytest.mark.parametrize("name", ["CartPole-v1", "sb3_moe_envs:SB3MoE/CartPole-v0"])
def test_an_id_outside_a_list_is_told_where_ids_stand(name):
    with pytest.raises(ValueError, match=rf"ids of environments stand in a list, \['{name}'\]$"):
        make_multitask_vec_env(name)


@pytest.mark.parametrize("build", [make_multitask_vec_env, MultiTaskEnv])
def test_a_schedules_class_is_no_schedule(build):
    with pytest.raises(TypeError, match=r"must be a Schedule \(not its class\), .*, got <class"):
        build(TASKS, schedule=Cycle)


@pytest.mark.parametrize(
    ("seed", "error", "rule"),
    [("a", TypeError, "an int, got 'a'"), (-1, ValueError, "at least 0, got -1")],
)
def test_a_seed_is_a_whole_number(seed, error, rule):
    with pytest.raises(error, match=f"`seed` must be {rule}"):
        make_multitask_vec_env(TASKS, seed=seed)


def test_keywords_of_ones_own_stand_beside_ours_in_the_monitors_file(tmp_path):
    env = make_multitask_vec_env(
        ["CartPole-v1"], 1, monitor_dir=tmp_path, monitor_kwargs={"info_keywords": ("task_id",)}
    )
    env.close()
    lines = (tmp_path / "monitor.csv").read_text().splitlines()
    assert lines[1] == "r,l,t,task_id,task_name"
