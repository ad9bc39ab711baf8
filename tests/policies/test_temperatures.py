"""A temperature for each task: with one task it is SAC's own, with several each is its own."""

import arena
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

import sb3_moe
from sb3_moe import presets
from sb3_moe.callbacks import TaskTemperatureCallback, WeightNormDecayCallback
from sb3_moe.growing import distill
from sb3_moe.layers.temperatures import TaskTemperatures
from sb3_moe.measures import shrink_and_perturb

ALGORITHMS = ["SAC", "TQC"]


def world(num_tasks=arena.NUM_TASKS):
    space = spaces.Dict({"obs": arena.FLAT, "task_id": spaces.Discrete(num_tasks)})
    return arena.Arena(space, arena.BOX)


def make(algorithm="SAC", env=None, model=None, **options):
    options = {"net_arch": [8], "placement": "none", **options}
    return arena.make(
        algorithm, "MoeMultiInputPolicy", env or world(), model=model or {}, **options
    )


def with_temperatures(algorithm="SAC", **options):
    return make(algorithm, model={"ent_coef": 1.0}, ent_coef_per_task=True, **options)


@pytest.mark.covering
@pytest.mark.parametrize("placement", ["middle", "big"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_with_one_task_it_is_sacs_own_temperature_update_for_update(algorithm, placement):
    # One after the other: both draw from torch's own generator.
    own = arena.train(make(algorithm, world(1), placement=placement), 40)
    ours = arena.train(with_temperatures(algorithm, env=world(1), placement=placement), 40)
    learned = ours.actor.temperatures.log_K
    assert abs(learned.item()) > 1e-3
    th.testing.assert_close(learned, own.log_ent_coef)
    theirs = own.policy.state_dict()
    for name, tensor in ours.policy.state_dict().items():
        if "temperatures" not in name:
            th.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=1e-4)


def test_each_task_learns_from_its_own_rows_by_hand():
    temperatures = TaskTemperatures([-2.0] * 3)
    with th.no_grad():
        temperatures.log_K.copy_(th.tensor([0.0, np.log(2.0), 0.0]))
    log_prob = th.tensor([1.0, 3.0, 5.0, -1.0], requires_grad=True)
    weighed = temperatures(log_prob, th.tensor([0, 1, 1, 0]))
    assert weighed.tolist() == pytest.approx([1.0, 6.0, 10.0, -1.0])
    weighed.sum().backward()
    # An actor's gradient: its task's temperature, whatever that learns itself.
    assert log_prob.grad.tolist() == pytest.approx([1.0, 2.0, 2.0, 1.0])
    # Minus the mean of log-probability and target: of (-1, -3), (1, 3) and none, over four rows.
    assert temperatures.log_K.grad.tolist() == pytest.approx([4 / 4, -4 / 4, 0.0])


def test_without_gradients_or_in_evaluation_nothing_is_learned():
    temperatures = TaskTemperatures([-1.0, -1.0])
    log_prob, tasks = th.zeros(2, requires_grad=True), th.tensor([0, 1])
    with th.no_grad():
        assert not temperatures(log_prob, tasks).requires_grad
    temperatures.eval()(log_prob, tasks).sum().backward()
    assert temperatures.log_K.grad is None


def test_a_callback_logs_each_tasks_and_refuses_a_second_temperature():
    arguments = presets.with_policy(presets.TASK_TEMPERATURES, net_arch=[8], placement="none")
    policy_kwargs = arguments.pop("policy_kwargs")
    model = make(model=arguments, **policy_kwargs)
    model.learn(24, callback=TaskTemperatureCallback(), log_interval=10**6)
    logged = [model.logger.name_to_value[f"temperature/{k}"] for k in range(3)]
    assert len(logged) == 3
    assert all(value > 0 for value in logged)
    with pytest.raises(ValueError, match=r"`ent_coef` must be 1.0 .* got 'auto'"):
        make(ent_coef_per_task=True).learn(8, callback=TaskTemperatureCallback())
    with pytest.raises(ValueError, match="must have a policy with `ent_coef_per_task`=True"):
        make().learn(8, callback=TaskTemperatureCallback())


@pytest.mark.parametrize(
    ("algorithm", "value", "text"),
    [
        ("TD3", True, "`ent_coef_per_task`=True needs the actor .* 'pi' of sb3_moe.policies.td3"),
        ("SAC", {"qf": True}, "`ent_coef_per_task`=True needs the actor .* got it for 'qf'"),
    ],
)
def test_who_has_no_temperature_is_named(algorithm, value, text):
    with pytest.raises(ValueError, match=text):
        arena.make(algorithm, net_arch=[8], ent_coef_per_task=value)


def test_remedies_take_temperatures_for_no_weights():
    model = with_temperatures("SAC")
    log_K = model.actor.temperatures.log_K
    with th.no_grad():
        log_K.fill_(0.5)
    shrink_and_perturb(model.policy)
    assert log_K.tolist() == [0.5] * len(log_K)
    callback = WeightNormDecayCallback(0.1)
    callback.init_callback(model)
    assert not any("temperatures" in name for name in callback.parameters())


def test_what_would_lose_temperatures_is_refused():
    model = with_temperatures(placement="middle", num_experts=2)
    obs = arena.observe(model)
    for lose in (sb3_moe.to_dense, lambda each: distill(each, obs, steps=1)):
        with pytest.raises(ValueError, match="`ent_coef_per_task` must be False"):
            lose(model)
    with pytest.raises(ValueError, match="`ent_coef_per_task` must be False"):
        sb3_moe.upcycle(with_temperatures(placement="none"), placement="middle")
