"""At tasks that weren't met before experts join, and old ones may be frozen."""

import numpy as np
import pytest
import torch as th
from stable_baselines3 import PPO

import sb3_moe
from sb3_moe.callbacks import (
    PlasticityCallback,
    RoutingCallback,
    SparseTrainingCallback,
    TaskSwitchCallback,
)
from sb3_moe.growing import drop_masks
from sb3_moe_envs import Cycle

TASKS = ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"]
BLOCK = 32


def in_blocks():
    schedule = Cycle(BLOCK, num_cycles=2)
    return sb3_moe.make_multitask_vec_env(TASKS, 2, seed=0, schedule=schedule)


def ppo(env, **options):
    experts = {} if options.get("placement") == "none" else {"num_experts": 2}
    kwargs = {"net_arch": [4], **experts, **options}
    return PPO(
        "MoeMultiInputPolicy",
        env,
        n_steps=BLOCK // 2,
        batch_size=BLOCK // 2,
        n_epochs=2,
        device="cpu",
        seed=1,
        policy_kwargs=kwargs,
    )


def numbers(model):
    return {name: layer.num_experts for name, layer in model.policy.moe_layers().items()}


def test_an_expert_joins_at_each_task_that_was_not_met_before():
    routers = RoutingCallback(BLOCK, probe_size=6)
    grow = TaskSwitchCallback(on_new_task="add_expert")
    layers = PlasticityCallback(BLOCK, probe_size=6, ntk_size=0)
    model = ppo(in_blocks()).learn(6 * BLOCK, [grow, routers, layers])
    changes = layers.diagnostics["weight_change/pi"]
    assert np.isnan(changes).tolist() == [True, True, True, False, False, False, False]
    seen = routers.diagnostics["gates/pi.middle"]
    assert seen.shape == (7, 3, 4)
    assert np.isnan(seen[:, 0]).sum(1).tolist() == [2, 1, 0, 0, 0, 0, 0]
    assert model.task_switches["switches"] == 5
    assert model.task_switches["met"] == sorted(model.get_env().get_attr("task_names")[0])
    assert numbers(model) == {"pi.middle": 4, "vf.middle": 4}
    assert [line["step"] for line in model.expert_log] == [BLOCK, 2 * BLOCK]


def test_old_experts_are_frozen_and_one_joins_that_learns():
    model = ppo(in_blocks(), head_router="task")
    model.learn(2 * BLOCK, TaskSwitchCallback(on_new_task="freeze_old"))
    assert model.policy.frozen_experts == {"pi.middle": [0, 1], "vf.middle": [0, 1]}
    weight = model.policy.moe_layers()["pi.middle"].experts.last.weight
    before = weight.detach().clone()
    model.train()
    assert th.equal(weight[:2], before[:2])
    assert not th.equal(weight[2], before[2])


REFUSED = {
    "unknown": ({}, "grow", r"`on_new_task` must be one of .* got 'grow"),
    "dense": ({"placement": "none"}, "add_expert", "can't be 'add_expert': the policy has no mix"),
    "optimizer": (
        {"optimizer_class": th.optim.Adamax, "optimizer_kwargs": {}},
        "freeze_old",
        "can't be 'freeze_old': `frozen_experts` needs `optimizer_class`",
    ),
    "too many": (
        {"router": "embedding", "combine": "orthogonal", "num_experts": 3},
        "add_expert",  # one fits, and the third task's doesn't
        "can't be 'add_expert': `combine`='orthogonal' needs experts .* experts, 5, got 4",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_grow_is_refused_before_training(name):
    options, value, text = REFUSED[name]
    model = ppo(in_blocks(), **options)
    with pytest.raises(ValueError, match=text):
        model.learn(BLOCK, TaskSwitchCallback(on_new_task=value))
    assert model.num_timesteps == 0


def test_sparse_training_beside_it_is_refused_before_the_first_step():
    model, grow = ppo(in_blocks()), TaskSwitchCallback(on_new_task="add_expert")
    with pytest.raises(ValueError, match=r"`model` must not train sparsely: .*drop_masks"):
        model.learn(3 * BLOCK, [grow, SparseTrainingCallback(0.5)])
    assert model.num_timesteps == 0


def test_experts_join_a_model_that_was_sparse_once_its_masks_are_dropped():
    model = ppo(in_blocks()).learn(BLOCK, SparseTrainingCallback(0.5))
    grow = TaskSwitchCallback(on_new_task="add_expert")
    with pytest.raises(ValueError, match=r"`on_new_task` can't be 'add_expert': .*drop_masks"):
        model.learn(BLOCK, grow, reset_num_timesteps=False)
    assert model.num_timesteps == BLOCK
    drop_masks(model)
    model.learn(3 * BLOCK, grow)
    assert numbers(model) == {"pi.middle": 4, "vf.middle": 4}
