"""Where penalties draw experts to after others have joined, left or become one with them."""

import numpy as np
import pytest
from experts_in_models import moe
from own_parts import Skipping
from stable_baselines3 import DQN, PPO
from toy import toy_vec_env

from sb3_moe import add_experts, merge_experts, remove_experts
from sb3_moe.callbacks import EWCCallback, L2AnchorCallback, L2InitCallback


def rows_of(model, arrays, name="pi.middle"):
    """Return what arrays by parameter say of each expert, as one vector each, by hand."""
    names = {p: key for key, p in model.policy.named_parameters()}
    experts = model.policy.moe_layers()[name].experts
    rows = [[] for _ in range(experts.num_experts)]
    for parameter, first, num_experts in experts.shares():
        by_expert = np.asarray(arrays[names[parameter]]).reshape(num_experts, -1)
        for k, numbers in enumerate(by_expert, first):
            rows[k].append(numbers)
    return [np.concatenate(each) for each in rows]


def is_in_mixture(model, name):
    """Say whether a parameter is in a mixture."""
    layers = model.policy.moe_layers().values()
    parameter = model.policy.get_parameter(name)
    return any(parameter in {*layer.parameters()} for layer in layers)


def now(model):
    return {name: p.detach().clone() for name, p in model.policy.named_parameters()}


def apart(a, b):
    return float(np.abs(a - b).max())


@pytest.mark.parametrize(
    ("algorithm", "options"), [("PPO", {"expert": Skipping}), ("SAC", {})], ids=str
)
def test_experts_that_stay_are_drawn_to_their_own_start_and_new_ones_to_theirs(algorithm, options):
    model = moe(algorithm, **options)
    model.learn(16, L2InitCallback(0.0), reset_num_timesteps=False)
    start = rows_of(model, model.initial_weights)
    others = {n: a for n, a in model.initial_weights.items() if not is_in_mixture(model, n)}
    remove_experts(model, [0], network="pi")
    add_experts(model, network="pi")
    for name, array in others.items():
        np.testing.assert_array_equal(model.initial_weights[name], array)
    joined = rows_of(model, now(model))[3]
    model.learn(32, L2InitCallback(0.0), reset_num_timesteps=False)
    after = rows_of(model, model.initial_weights)
    for mine, own in zip(after, [*start[1:], joined], strict=True):
        np.testing.assert_array_equal(mine, own)
    assert apart(rows_of(model, now(model))[3], joined) > 0


def test_a_copy_is_drawn_to_the_start_of_its_original_and_one_made_of_two_to_their_mean():
    model = moe()
    model.learn(16, L2InitCallback(0.0), reset_num_timesteps=False)
    start = rows_of(model, model.initial_weights)
    add_experts(model, like=2)
    merge_experts(model, [0, 1])
    after = rows_of(model, model.initial_weights)
    np.testing.assert_allclose(after[0], (start[0] + start[1]) / 2, rtol=1e-6)
    for mine, own in zip(after[1:], [start[2], start[3], start[2]], strict=True):
        np.testing.assert_array_equal(mine, own)


def after_a_switch(algo, kind):
    """Return a model that has finished a task and played another with a penalty on going far."""
    blocks = (0,) * 10 + (1,) * 200
    options = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}
    if algo is DQN:
        options = {"learning_starts": 20, "buffer_size": 300}
    kwargs = {"net_arch": [8], "num_experts": 3}
    env = toy_vec_env(blocks, blocks)
    model = algo("MoeMultiInputPolicy", env, policy_kwargs=kwargs, seed=0, device="cpu", **options)
    return model.learn(256, kind(0.1))


@pytest.mark.parametrize(
    ("algo", "name", "kind"),
    [(PPO, "pi.middle", EWCCallback), (DQN, "qf.middle", L2AnchorCallback)],
)
def test_a_finished_task_holds_the_experts_that_stay_and_no_new_one(algo, name, kind):
    model = after_a_switch(algo, kind)
    kept = model.anchors[kind.key]
    weights, strengths = (rows_of(model, kept[key], name) for key in ("weights", "strengths"))
    assert max(each.max() for each in strengths) > 0
    remove_experts(model, [1])
    add_experts(model, like=0)
    add_experts(model)
    places, holds = (rows_of(model, kept[key], name) for key in ("weights", "strengths"))
    for k, own in enumerate([0, 2]):
        np.testing.assert_array_equal(places[k], weights[own])
        np.testing.assert_array_equal(holds[k], strengths[own])
    assert not np.any(holds[2:])
    model.learn(64, kind(0.1), reset_num_timesteps=False)
    for k, own in enumerate([0, 2]):
        np.testing.assert_array_equal(rows_of(model, kept["weights"], name)[k], weights[own])


def test_experts_that_leave_in_the_middle_of_a_run_leave_the_others_where_they_were():
    class Leave(EWCCallback):
        def _on_rollout_start(self):
            if self.num_timesteps == 128:
                remove_experts(self.model, [0])
            super()._on_rollout_start()

    model = after_a_switch(PPO, Leave)
    assert model.policy.moe_layers()["pi.middle"].num_experts == 2
    assert any(each.any() for each in rows_of(model, model.anchors["ewc"]["strengths"]))
