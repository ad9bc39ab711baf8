"""Every algorithm, placement and router: upcycled, changed, and dense again where that is equal."""

import subprocess
import sys

import pytest
from dense_models import NUM_TASKS, PLACES, dense, gap, outputs
from dense_models import ROUTERS as OF_DENSE
from experts_in_models import ROUTERS, SHARED, assert_same, loaded, moe, of_expert
from stable_baselines3 import PPO

import sb3_moe
from sb3_moe.growing import to_dense, upcycle
from sb3_moe.growing.models import sampled
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import networks_of
from sb3_moe.policies.registration import TABLE
from sb3_moe.vec_env.tasks import names_on


@pytest.mark.covering
@pytest.mark.parametrize("router", OF_DENSE)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("algorithm", TABLE)
def test_experts_do_together_what_the_dense_model_did_and_go_on(algorithm, place, router):
    old = dense(algorithm)
    model = upcycle(old, placement=place, num_tasks=NUM_TASKS, **OF_DENSE[router])
    assert gap(model, old) < 1e-5
    assert model.num_timesteps == old.num_timesteps > 0
    again = loaded(model)
    assert gap(again, model) == 0
    again.learn(32, reset_num_timesteps=False)
    assert gap(again, old) > 0


# More experts, and fewer.

CHANGES = {
    "new": lambda model: sb3_moe.add_experts(model),
    "copies": lambda model: sb3_moe.add_experts(model, 2, like=1),
    "merged": lambda model: sb3_moe.merge_experts(model, [1, 5]),
    "removed": lambda model: sb3_moe.remove_experts(model, [0]),
    "frozen": lambda model: sb3_moe.freeze_experts(model, [0, 2]),
}


def is_kept(change, router):
    return change == "frozen" or (change == "copies" and router in SHARED)


def assert_optimizers_fit(model):
    """Check that each optimizer has the policy's own tensors, in order, and states as large."""
    for optimizer in networks_of(model.policy).optimizers().values():
        own = [p for p in model.policy.parameters() if any(p is q for q in of(optimizer))]
        assert len(own) == len(of(optimizer))
        for parameter, state in optimizer.state.items():
            assert any(parameter is q for q in of(optimizer))
            assert all(v.shape == parameter.shape for k, v in state.items() if "exp_avg" in k)


def of(optimizer):
    return optimizer.param_groups[0]["params"]


@pytest.mark.covering
@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("algorithm", TABLE)
def test_changed_models_are_saved_loaded_and_learn(algorithm, place, router):
    model = moe(algorithm, placement=place, **ROUTERS[router])
    layers = model.policy.moe_layers()
    numbers = {"new": 5, "copies": 7, "merged": 6, "removed": 5, "frozen": 5}
    for change, act in CHANGES.items():
        if (algorithm, change) == ("TRPO", "frozen"):  # which is refused
            return
        before = outputs(model)
        act(model)
        found = {layer.num_experts for layer in model.policy.moe_layers().values()}
        assert found == {numbers[change]}
        assert gap(model, before) < (1e-5 if is_kept(change, router) else 10.0)
        assert_optimizers_fit(model)
        if change == "copies":
            model.learn(16, reset_num_timesteps=False)
    frozen = {name: of_expert(model, name, 2) for name in layers}
    again = loaded(model)
    assert gap(again, model) == 0
    for each in (model, again):
        each.learn(16, reset_num_timesteps=False)
        for name, tensors in frozen.items():
            assert_same(of_expert(each, name, 2), tensors)


@pytest.mark.parametrize("change", ["new", "merged", "removed"])
def test_the_task_routers_experts_are_as_many_as_the_tasks(change):
    model = moe("PPO", placement="all", router="task")
    with pytest.raises(ValueError, match=r"`router`='task' needs exactly one expert for each"):
        CHANGES[change](model)
    assert {layer.num_experts for layer in model.policy.moe_layers().values()} == {3}


# Dense again.

TASK = 1
# Mixtures that are one network, wherever they sit.
ONE = {
    "task": {"router": "task"},
    "single": {"router": "soft", "num_experts": 1},
    "single top-k": {"router": "top_k", "num_experts": 1},
}

# Placements whose experts may be single linear layers, and the kind of expert that is one.
LINEAR = {"middle": "linear", "final": "mlp", "all": "linear"}


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
    model = moe(algorithm, placement=place, **ONE[kind])
    task = TASK if kind == "task" else None
    if not is_possible(algorithm, place):
        with pytest.raises(ValueError, match="an activation behind each hidden layer"):
            to_dense(model, task)
        return
    new = to_dense(model, task)
    assert not isinstance(new.policy, MoEPolicy)
    assert gap(new, model, of_task(model) if task else None) < 1e-5
    new.learn(32, reset_num_timesteps=False)


@pytest.mark.covering
@pytest.mark.parametrize("place", LINEAR)
@pytest.mark.parametrize("algorithm", TABLE)
def test_uniform_linear_experts_are_one_linear_layer(algorithm, place):
    model = moe(algorithm, placement=place, router="uniform", expert=LINEAR[place])
    assert gap(to_dense(model), model) < 1e-5


def test_a_dense_model_is_loaded_without_this_package(tmp_path):
    env = sb3_moe.make_multitask_vec_env("Classic/CartPole4", task_id="dict", seed=0)
    model = PPO(
        "MoeMultiInputPolicy", env, n_steps=8, batch_size=8, policy_kwargs={"router": "task"}
    )
    new = to_dense(model, TASK)
    new.save(tmp_path / "dense.zip")
    assert names_on(new.observation_space) == names_on(env.observation_space)
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
