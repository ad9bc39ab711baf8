"""NewTaskCallback notices what no model explains, and gives a new task a spare model's expert."""

import arena
import numpy as np
import pytest
import torch as th
from hidden import drifts, hidden_tasks
from learners import Kept

from sb3_moe.callbacks import NewTaskCallback, RoutingCallback
from sb3_moe.growing import copy_expert
from sb3_moe.policies.networks import networks_of


def build(algorithm="PPO", env=None, **options):
    env = env or drifts(continuous=algorithm in arena.BOX_ACTIONS, active=2)
    network = {"net_arch": [8], "placement": "big", "router": "belief"}
    return arena.make(algorithm, "MoeMultiInputPolicy", env, **network | options)


class Alarmed(NewTaskCallback):
    """Notices a new task in the third window, where the first two environments are surprised."""

    windows = 0

    def _surprised(self, score_n):
        self.windows += 1
        return np.array([self.windows == 3, self.windows == 3, False, False])


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "DQN"])
def test_a_new_task_gets_a_spare_model_and_its_expert_begins_as_the_likeliest_one(
    algorithm, capsys
):
    model = build(algorithm)
    models, copied = model.env.models, []

    class Watching(Alarmed):
        def _on_step(self):
            before = models.num_active
            super()._on_step()
            if models.num_active > before:
                copied.extend(same_experts(model, 2))
            return True

    callback = Watching(add_expert=True, fit_steps=5, verbose=1)
    model.learn(160, callback=callback)
    assert callback.noticed == 1
    assert (models.num_active, models.num_spare) == (3, 0)
    assert copied
    assert all(copied)
    assert "new task 1 at step " in capsys.readouterr().out


def same_experts(model, k):
    """Say of each mixture whether expert k has the weights of another one."""
    for layer in model.policy.moe_layers().values():
        own = [
            th.cat([p.flatten() for p in layer.experts.expert(i).parameters()]) for i in range(3)
        ]
        yield any(th.equal(own[k], own[i]) for i in range(3) if i != k)


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "TD3"])
def test_a_copied_expert_has_the_moments_and_the_target_of_its_source(algorithm):
    model = build(algorithm).learn(64)
    copy_expert(model, 0, 2)
    networks = networks_of(model.policy)
    followers = networks.followers()
    states = {p: s for o in networks.optimizers().values() for p, s in o.state.items()}
    compared = 0
    for layer in model.policy.moe_layers().values():
        for parameter in layer.experts.parameters():
            moments = [v for v in states[parameter].values() if v.shape == parameter.shape]
            followed = [followers[parameter]] if parameter in followers else []
            for each in (parameter, *moments, *followed):
                own = each.unflatten(0, (3, -1))
                assert th.equal(own[2], own[0])
                compared += 1
    assert compared > 10
    model.learn(32, reset_num_timesteps=False)


def test_a_run_that_goes_on_remembers_what_it_noticed():
    model = build().learn(160, callback=Alarmed())
    kept = model.new_tasks
    assert (kept["noticed"], len(kept["usual"])) == (1, 5)
    again = NewTaskCallback()
    model.learn(16, callback=again, reset_num_timesteps=False)
    assert again.noticed == 1


def test_without_a_belief_that_learns_or_a_spare_model_it_is_refused():
    plain = arena.make("PPO", "MlpPolicy", hidden_tasks())
    asleep = arena.make("PPO", "MultiInputPolicy", drifts(training=False))
    for model in (plain, asleep):
        with pytest.raises(ValueError, match="with a belief that learns: wrap it in sb3_moe"):
            model.learn(16, callback=NewTaskCallback())
    full = build(env=drifts())
    with pytest.raises(ValueError, match=r"`add_expert`=True needs a spare model: .* got 3, all"):
        full.learn(16, callback=NewTaskCallback(add_expert=True))
    full.learn(16, callback=NewTaskCallback())


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("margin", -1.0, ValueError),
        ("share", 0.0, ValueError),
        ("share", 1.5, ValueError),
        ("patience", 0, ValueError),
        ("patience", 1.5, TypeError),
        ("fit_steps", 0, ValueError),
    ],
)
def test_values_out_of_range_are_refused(argument, value, error):
    with pytest.raises(error, match=f"`{argument}` must"):
        NewTaskCallback(**{argument: value})


def test_the_gates_that_a_belief_sets_are_logged():
    model = build()
    model.set_logger(Kept())
    model.learn(64, RoutingCallback(probe_size=8))
    assert "moe/specialization/pi.big" in model.logger.name_to_value
