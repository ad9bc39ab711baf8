"""What changes at a task switch, and at tasks that weren't met before."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from learners import learner
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.her import HerReplayBuffer

import sb3_moe  # noqa: F401  registers the policies' names
from sb3_moe.callbacks import (
    PlasticityCallback,
    RoutingCallback,
    SparseTrainingCallback,
    TaskSwitchCallback,
)
from sb3_moe.growing import drop_masks
from sb3_moe.vec_env import make_multitask_vec_env
from sb3_moe.vec_env.kept_rows import Reservoir
from sb3_moe_envs import Cycle, Interleave

TASKS = ["CartPole-v1", "Acrobot-v1"]
BLOCK, SHORT = 128, 32
GOALS = spaces.Dict(
    {key: spaces.Box(-1, 1, (2,)) for key in ("observation", "achieved_goal", "desired_goal")}
)


def ppo(env, **kwargs):
    return learner(PPO, env, n_steps=16, **kwargs)


def dqn(env, **kwargs):
    return learner(DQN, env, train_freq=8, **kwargs)


def in_blocks():
    return make_multitask_vec_env(TASKS, 2, seed=0, schedule=Cycle(BLOCK, num_cycles=2))


@pytest.mark.parametrize("make", [ppo, dqn])
def test_training_that_follows_without_the_callback_has_the_models_own_schedules(make):
    model = make(in_blocks())
    names = ["lr_schedule"] + (["exploration_schedule"] if make is dqn else [])
    before = [getattr(model, name) for name in names]
    seen = []

    class Spy(TaskSwitchCallback):
        def _on_step(self):
            seen.append(tuple(getattr(model, name) for name in names))
            return True

    model.learn(BLOCK + 32, Spy(restart_learning_rate=True, restart_exploration=make is dqn))
    assert seen[-1] != tuple(before)
    assert [getattr(model, name) for name in names] == before


@pytest.mark.parametrize("placement", ["final", "big"])
def test_heads_of_experts_that_are_to_be_kept_are_not_drawn_anew(placement):
    kwargs = {"placement": placement, "num_experts": 2, "net_arch": [8]}
    model = ppo(in_blocks(), policy_kwargs=kwargs)
    kept = {}

    class Spy(TaskSwitchCallback):
        def _switch(self, task):
            policy = model.policy
            kept["before"] = [policy.get_expert("pi", k).state_dict() for k in range(2)]
            super()._switch(task)
            kept["after"] = [policy.get_expert("pi", k).state_dict() for k in range(2)]

    model.learn(BLOCK + 32, Spy(reset_heads=True, on_new_task="freeze_old"))
    for before, after in zip(kept["before"], kept["after"], strict=True):
        assert all(th.equal(before[name], after[name]) for name in before)


def one_env(schedule):
    return make_multitask_vec_env(TASKS, 1, seed=0, schedule=schedule)


def test_tasks_interleaved_by_the_episode_in_one_environment_never_switch():
    callback = TaskSwitchCallback(replay_buffer="clear")
    model = dqn(one_env(Interleave("episodes")), buffer_size=800)
    with pytest.warns(UserWarning, match="tasks are interleaved, so none ever ends"):
        model.learn(800, callback)
    assert set(model.replay_buffer.observations["task_id"].flat) == {0, 1}
    assert callback.switches == 0
    assert model.replay_buffer.full


BUFFERS = {
    NStepReplayBuffer: lambda: NStepReplayBuffer(10, spaces.Box(-1, 1, (2,)), spaces.Discrete(2)),
    HerReplayBuffer: lambda: HerReplayBuffer(10, GOALS, spaces.Discrete(2), env=None),
}


@pytest.mark.parametrize("kind", list(BUFFERS))
def test_a_reservoir_refuses_a_buffer_whose_rows_belong_together(kind):
    with pytest.raises(
        ValueError,
        match="whose rows can be moved.*nor an NStepReplayBuffer or HerReplayBuffer, which read "
        f"on from row to row; got {kind.__name__}",
    ):
        Reservoir(0.5).check(BUFFERS[kind]())


def test_a_buffer_of_hindsight_can_not_be_cleared():
    model = dqn(in_blocks())
    model.replay_buffer = BUFFERS[HerReplayBuffer]()
    with pytest.raises(ValueError, match="can't be 'clear' with a HerReplayBuffer"):
        TaskSwitchCallback(replay_buffer="clear").check_model(model)


def test_a_reservoir_is_a_share_of_the_buffer():
    with pytest.raises(ValueError, match=r"`reservoir_share` must be in \(0, 0.5\], got 50"):
        Reservoir(50)


# New tasks.


def three():
    schedule = Cycle(SHORT, num_cycles=2)
    return make_multitask_vec_env([*TASKS, "MountainCar-v0"], 2, seed=0, schedule=schedule)


def small(env, **options):
    experts = {} if options.get("placement") == "none" else {"num_experts": 2}
    kwargs = {"net_arch": [4], **experts, **options}
    return learner(PPO, env, n_steps=SHORT // 2, policy_kwargs=kwargs)


def numbers(model):
    return {name: layer.num_experts for name, layer in model.policy.moe_layers().items()}


def test_an_expert_joins_at_each_task_that_was_not_met_before():
    routers = RoutingCallback(SHORT, probe_size=6)
    grow = TaskSwitchCallback(on_new_task="add_expert")
    layers = PlasticityCallback(SHORT, probe_size=6, ntk_size=0)
    model = small(three()).learn(6 * SHORT, [grow, routers, layers])
    changes = layers.diagnostics["weight_change/pi"]
    assert np.isnan(changes).tolist() == [True, True, True, False, False, False, False]
    seen = routers.diagnostics["gates/pi.middle"]
    assert seen.shape == (7, 3, 4)
    assert np.isnan(seen[:, 0]).sum(1).tolist() == [2, 1, 0, 0, 0, 0, 0]
    assert model.task_switches["switches"] == 5
    assert model.task_switches["met"] == sorted(model.get_env().get_attr("task_names")[0])
    assert numbers(model) == {"pi.middle": 4, "vf.middle": 4}
    assert [line["step"] for line in model.expert_log] == [SHORT, 2 * SHORT]


def test_old_experts_are_frozen_and_one_joins_that_learns():
    model = small(three(), head_router="task")
    model.learn(2 * SHORT, TaskSwitchCallback(on_new_task="freeze_old"))
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
        "can't be 'freeze_old': `frozen_experts` needs Adam or AdamW",
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
    model = small(three(), **options)
    with pytest.raises(ValueError, match=text):
        model.learn(SHORT, TaskSwitchCallback(on_new_task=value))
    assert model.num_timesteps == 0


def test_sparse_training_beside_it_is_refused_before_the_first_step():
    model, grow = small(three()), TaskSwitchCallback(on_new_task="add_expert")
    with pytest.raises(ValueError, match=r"`model` must not train sparsely: .*drop_masks"):
        model.learn(3 * SHORT, [grow, SparseTrainingCallback(0.5)])
    assert model.num_timesteps == 0


def test_experts_join_a_model_that_was_sparse_once_its_masks_are_dropped():
    model = small(three()).learn(SHORT, SparseTrainingCallback(0.5))
    grow = TaskSwitchCallback(on_new_task="add_expert")
    with pytest.raises(ValueError, match=r"`on_new_task` can't be 'add_expert': .*drop_masks"):
        model.learn(SHORT, grow, reset_num_timesteps=False)
    assert model.num_timesteps == SHORT
    drop_masks(model)
    model.learn(3 * SHORT, grow)
    assert numbers(model) == {"pi.middle": 4, "vf.middle": 4}
