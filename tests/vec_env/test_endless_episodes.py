"""Episodes that never end are an error rather than played for ever."""

import gymnasium as gym
import pytest
from stable_baselines3 import PPO
from tiny import Steps

import sb3_moe
from sb3_moe.callbacks import MultiTaskEvalCallback
from sb3_moe.vec_env.evaluating import evaluate_tasks
from sb3_moe.watching import expert_importance

for name, length in (("Ten", 10), ("Endless", None)):
    if f"{name}-v0" not in gym.registry:
        gym.register(f"{name}-v0", entry_point=Steps, kwargs={"length": length})


def agent(*tasks):
    env = sb3_moe.make_multitask_vec_env(list(tasks), seed=0)
    sizes = {"n_steps": 8, "batch_size": 8, "policy_kwargs": {"net_arch": [4], "num_experts": 2}}
    return PPO("MoeMultiInputPolicy", env, seed=0, device="cpu", **sizes)


@pytest.mark.parametrize("limit", [50, None])
def test_an_evaluation_while_training_ends_or_waits_as_it_is_told(limit):
    model = agent("Ten-v0", "Endless-v0" if limit else "Ten-v0")
    callback = MultiTaskEvalCallback(8, 1, max_episode_steps=limit)
    if limit is None:
        model.learn(16, callback)
        assert callback.record.rows["lengths"][-1].tolist() == [[10.0], [10.0]]
    else:
        with pytest.raises(ValueError, match=r"`max_episode_steps`=50, unlike one of Endless:"):
            model.learn(16, callback)


def test_an_episode_may_take_as_many_steps_as_the_limit_and_no_more():
    model = agent("Ten-v0")
    played = expert_importance(model, episodes=2, max_episode_steps=10)
    assert played.returns.tolist() == [[[10.0, 10.0]]] * 3
    with pytest.raises(ValueError, match=r"`max_episode_steps`=9, unlike one of Ten:"):
        expert_importance(model, episodes=2, max_episode_steps=9)


def test_a_copy_that_has_its_episodes_may_go_on():
    class LongerEachTime(Steps):
        def reset(self, *, seed=None, options=None):
            self.length = 3 if self.length is None else 10**9
            return super().reset(seed=seed)

    model = PPO("MlpPolicy", LongerEachTime(), n_steps=8, batch_size=8, device="cpu")
    played = evaluate_tasks(model, model.get_env(), 1, max_episode_steps=5)
    assert played.lengths.tolist() == [[3.0]]
