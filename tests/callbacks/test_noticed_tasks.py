"""New tasks are noticed by what no model explains, and not by how the policy gets better."""

from types import SimpleNamespace

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from hidden import Drift, drifts
from learners import Kept
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from toy import pinned

from sb3_moe.callbacks import NewTaskCallback, RoutingCallback
from sb3_moe.callbacks.task_switch import CALM_WINDOWS

WINDOW = 16


class Change(BaseCallback):
    """Change the slopes of two environments at a step."""

    def __init__(self, at, slope):
        super().__init__()
        self.at, self.slope = at, slope

    def _on_step(self):
        if self.num_timesteps >= self.at:
            for env in self.training_env.envs[:2]:
                env.slope = self.slope
        return True


class Alarms(NewTaskCallback):
    """Note after which window each new task is noticed."""

    windows, at = 0, ()

    def _on_rollout_end(self):
        before = self.noticed
        super()._on_rollout_end()
        self.windows += 1
        self.at = [*self.at, *[self.windows] * (self.noticed - before)]


def train(env, callbacks, steps, **options):
    network = {"net_arch": [8], "placement": "big", "router": "predict", "num_experts": 2}
    network["features_extractor_kwargs"] = {"learning_rate": 0.03}
    model = sb3.PPO(
        "MoeMultiInputPolicy",
        env,
        n_steps=WINDOW,
        batch_size=64,
        learning_rate=0.01,
        policy_kwargs=network | options,
        seed=0,
        device="cpu",
    )
    return model.learn(steps, callback=callbacks)


def test_a_change_is_noticed_at_the_first_window_and_gets_an_expert_that_explains_it():
    steps = 4 * WINDOW
    callback = Alarms(window=WINDOW, share=0.25, add_expert=True)
    model = train(drifts(), [Change(30 * steps, 5.0), callback], 40 * steps)
    assert callback.at == [31]
    again = NewTaskCallback()
    model.learn(WINDOW, again, reset_num_timesteps=False)
    assert again.noticed == 1
    belief = model.policy.belief
    assert belief.num_models == 3
    env = DummyVecEnv([lambda: Drift(5.0)])
    env.reset()
    obs, *_ = env.step([1])
    assert belief(th.as_tensor(obs["history"]))[0].argmax() == 2


def test_a_model_that_goes_on_keeps_the_usual_scores():
    model = train(drifts(), [NewTaskCallback(window=WINDOW)], 8 * 4 * WINDOW)
    usual = model.new_tasks["usual"]
    assert len(usual) == CALM_WINDOWS
    again = NewTaskCallback(window=2 * WINDOW)  # none of its windows ends now
    model.learn(4 * WINDOW, again, reset_num_timesteps=False)
    assert list(again._usual) == usual


def test_a_model_that_goes_on_within_a_window_ends_it_at_the_same_step():
    model = train(drifts(), [NewTaskCallback(window=2 * WINDOW)], 4 * WINDOW)
    again = NewTaskCallback(window=2 * WINDOW)
    model.learn(4 * WINDOW, again, reset_num_timesteps=False)
    assert len(model.new_tasks["usual"]) == 1  # both halves of the window are there
    assert again._seen == []


class Told(NewTaskCallback):
    """Is told how well histories are explained."""

    score = -1.0

    def _explained(self, histories):
        return th.full(histories.shape[:2], self.score), None


def test_after_five_calm_windows_a_change_is_noticed_at_the_first_surprising_window():
    callback, noticed = Told(window=2), []
    callback.model = SimpleNamespace(device="cpu", logger=Kept())
    for rollout in range(2 * CALM_WINDOWS + 2):  # of a step, each half a window
        callback.score = -1.0 if rollout < 2 * CALM_WINDOWS else -11.0
        callback._seen.append(np.zeros((2, 1, 1)))
        callback._on_rollout_end()
        noticed.append(callback.noticed)
    assert noticed == [0] * (2 * CALM_WINDOWS + 1) + [1]
    assert [max(usual) for usual in callback._usual] == [-1.0] * CALM_WINDOWS


def test_the_policys_own_improvement_is_no_new_task():
    callback = NewTaskCallback(window=WINDOW, share=0.25)
    model = train(drifts(), callback, 40 * 4 * WINDOW)
    assert callback.noticed == 0
    assert model.policy.belief.num_models == 2


def test_the_gates_of_a_router_by_prediction_are_logged():
    model = train(drifts(), [], 64)
    model.set_logger(Kept())
    model.learn(64, RoutingCallback(probe_size=8))
    assert "moe/specialization/pi.big" in model.logger.name_to_value


def test_an_alarm_needs_patience_to_start_and_to_end():
    callback = NewTaskCallback(share=0.5, patience=2, most=2)
    shares = [0.5, 0.0, 0.6, 0.7, 0.8, 0.0, 0.9, 0.0, 0.1, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    alarms = []
    for i, share in enumerate(shares):
        if callback._starts_alarm(share):
            callback.noticed += 1
            alarms.append(i)
    assert alarms == [3, 10]


def test_environments_whose_tasks_are_known_stay_calm_when_an_expert_joins(capsys):
    steps, shares = 4 * WINDOW, []

    class Shares(NewTaskCallback):
        def _on_rollout_end(self):
            super()._on_rollout_end()
            shares.append(self.logger.name_to_value["moe/surprised"])

    callback = Shares(window=WINDOW, share=0.25, add_expert=True, fit_steps=50, verbose=1)
    train(drifts(), [Change(30 * steps, 5.0), callback], 36 * steps)
    assert callback.noticed == 1
    assert max(shares[30:]) == 0.5
    assert "new task 1 at step 1984" in capsys.readouterr().out


def test_an_expert_that_could_not_join_is_refused_at_the_start():
    networks = {"placement": {"pi": "big", "vf": "none"}}
    with pytest.raises(ValueError, match="only if all networks have `router`='predict'"):
        train(drifts(), NewTaskCallback(add_expert=True), 8, **networks)


def test_a_policy_without_a_belief_and_values_out_of_range_are_refused():
    model = sb3.PPO("MoeMultiInputPolicy", pinned(), n_steps=8, batch_size=8)
    with pytest.raises(ValueError, match="must have a belief"):
        model.learn(8, callback=NewTaskCallback())
    with pytest.raises(ValueError, match=r"`share` must be in \(0, "):
        NewTaskCallback(share=0.0)
