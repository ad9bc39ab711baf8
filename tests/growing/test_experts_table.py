"""Every algorithm, placement and router: experts are added, merged, removed and frozen."""

import pytest
from dense_models import PLACES, gap, outputs
from experts_in_models import ROUTERS, SHARED, assert_same, loaded, moe, of_expert

import sb3_moe
from sb3_moe.policies.networks import networks_of
from sb3_moe.policies.registration import TABLE

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
    with pytest.raises(ValueError, match=r"`router`='task' has an expert for each task in pi\."):
        CHANGES[change](model)
    assert {layer.num_experts for layer in model.policy.moe_layers().values()} == {3}
