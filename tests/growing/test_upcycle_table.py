"""Every algorithm, placement and router: experts begin by doing what the dense model did."""

import pytest
from dense_models import NUM_TASKS, PLACES, ROUTERS, dense, gap
from experts_in_models import loaded

from sb3_moe.growing import upcycle
from sb3_moe.policies.registration import TABLE


@pytest.mark.covering
@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("algorithm", TABLE)
def test_experts_do_together_what_the_dense_model_did_and_go_on(algorithm, place, router):
    old = dense(algorithm)
    model = upcycle(old, placement=place, num_tasks=NUM_TASKS, **ROUTERS[router])
    assert gap(model, old) < 1e-5
    assert model.num_timesteps == old.num_timesteps > 0
    again = loaded(model)
    assert gap(again, model) == 0
    again.learn(32, reset_num_timesteps=False)
    assert gap(again, old) > 0
