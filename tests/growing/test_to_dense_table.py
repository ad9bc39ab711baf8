"""Every algorithm, placement and router: SB3's own dense model, equal, or an error by name."""

import subprocess
import sys

import pytest
from dense_models import NUM_TASKS, PLACES, gap, make
from stable_baselines3 import PPO

import sb3_moe
from sb3_moe.growing import to_dense
from sb3_moe.growing.models import sampled
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.registration import TABLE
from sb3_moe.vec_env.tasks import names_on

TASK = 1
# Mixtures that are one network, wherever they sit.
ONE = {
    "task": {"router": "task"},
    "single": {"router": "soft", "num_experts": 1},
    "single top-k": {"router": "top_k", "num_experts": 1},
}

# Placements whose experts may be single linear layers, and the kind of expert that is one.
LINEAR = {"middle": "linear", "final": "mlp", "all": "linear"}


def with_experts(algorithm, place, **options):
    alias = "MoeMlpLstmPolicy" if algorithm == "RecurrentPPO" else "MoeMlpPolicy"
    tasks = {"num_tasks": NUM_TASKS}
    return make(algorithm, alias, placement=place, features_extractor_kwargs=tasks, **options)


def of_task(model):
    obs = sampled(model.observation_space, 32)
    obs[:, -NUM_TASKS:] = 0
    obs[:, -NUM_TASKS + TASK] = 1
    return obs


def is_possible(algorithm, place):
    # CrossQ keeps a normalization behind the experts' last layer, and SB3 never has one there.
    return algorithm != "CrossQ" or place not in ("middle", "all")


@pytest.mark.covering
@pytest.mark.parametrize("kind", ONE)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("algorithm", TABLE)
def test_a_mixture_that_is_one_network_becomes_sb3s_own(algorithm, place, kind):
    model = with_experts(algorithm, place, **ONE[kind])
    task = TASK if kind == "task" else None
    if not is_possible(algorithm, place):
        with pytest.raises(ValueError, match="an activation behind each hidden layer"):
            to_dense(model, task)
        return
    dense = to_dense(model, task)
    assert not isinstance(dense.policy, MoEPolicy)
    assert gap(dense, model, of_task(model) if task else None) < 1e-5
    dense.learn(32, reset_num_timesteps=False)


@pytest.mark.covering
@pytest.mark.parametrize("place", LINEAR)
@pytest.mark.parametrize("algorithm", TABLE)
def test_uniform_linear_experts_are_one_linear_layer(algorithm, place):
    model = with_experts(algorithm, place, router="uniform", expert=LINEAR[place])
    assert gap(to_dense(model), model) < 1e-5


@pytest.mark.parametrize("router", ["soft", "uniform"])
def test_gates_that_differ_by_sample_are_no_dense_network(router):
    model = with_experts("PPO", "all", router=router)
    with pytest.raises(
        ValueError, match=f"mixtures that are one network.*`router`='{router}' with 4 experts"
    ):
        to_dense(model)


def test_the_task_routers_dense_model_needs_its_task():
    with pytest.raises(
        ValueError, match=r"`task` must be one of 0 to 2 with `router`='task'.*None"
    ):
        to_dense(with_experts("PPO", "middle", router="task"))


def test_a_dense_model_is_loaded_without_this_package(tmp_path):
    env = sb3_moe.make_multitask_vec_env("Classic/CartPole4", task_id="dict", seed=0)
    model = PPO(
        "MoeMultiInputPolicy", env, n_steps=8, batch_size=8, policy_kwargs={"router": "task"}
    )
    dense = to_dense(model, TASK)
    dense.save(tmp_path / "dense.zip")
    assert names_on(dense.observation_space) == names_on(env.observation_space)
    code = f"""
import sys
sys.modules["sb3_moe"] = sys.modules["sb3_moe_envs"] = None
from stable_baselines3 import PPO
model = PPO.load({str(tmp_path / "dense.zip")!r})
print(type(model.policy).__module__, model.observation_space["task_id"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.strip() == "stable_baselines3.common.policies Discrete(4)", done.stderr
