"""What a run remembers of its task switches when it is resumed, and where there is none."""

import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.her import HerReplayBuffer

import sb3_moe  # noqa: F401  registers the policies' names
from sb3_moe.callbacks import TaskSwitchCallback
from sb3_moe.vec_env import make_multitask_vec_env
from sb3_moe.vec_env.kept_rows import Reservoir
from sb3_moe_envs import Cycle, Interleave

TASKS = ["CartPole-v1", "Acrobot-v1"]
BLOCK = 128
GOALS = spaces.Dict(
    {key: spaces.Box(-1, 1, (2,)) for key in ("observation", "achieved_goal", "desired_goal")}
)


def ppo(env, **kwargs):
    return PPO("MoeMultiInputPolicy", env, n_steps=16, batch_size=32, seed=1, **kwargs)


def dqn(env, **kwargs):
    options = {"learning_starts": 20, "buffer_size": 200, "train_freq": 8} | kwargs
    return DQN("MoeMultiInputPolicy", env, **options, device="cpu", seed=1)


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
