"""Every algorithm, placement and router: experts begin by doing what the dense model did."""

import pytest
from dense_models import NUM_TASKS, PLACES, ROUTERS, dense, gap
from experts_in_models import loaded

from sb3_moe.growing import upcycle
from sb3_moe.policies.registration import TABLE

# Routers under which every sample meets every expert.
SHARED = ("soft", "embedding", "uniform", "random", "every")


def grow(algorithm, place, router, **kwargs):
    return upcycle(
        dense(algorithm), placement=place, num_tasks=NUM_TASKS, **ROUTERS[router], **kwargs
    )


@pytest.mark.covering
@pytest.mark.parametrize(
    ("how", "router"),
    [*(("copy", each) for each in ROUTERS), *(("split", each) for each in SHARED)],
)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("algorithm", TABLE)
def test_experts_do_together_what_the_dense_model_did_and_go_on(algorithm, place, how, router):
    model = grow(algorithm, place, router, how=how)
    assert gap(model, dense(algorithm)) < 1e-5
    assert model.num_timesteps == dense(algorithm).num_timesteps > 0
    again = loaded(model)
    assert gap(again, model) == 0
    again.learn(32, reset_num_timesteps=False)
    assert gap(again, dense(algorithm)) > 0


@pytest.mark.parametrize("router", ["task", "one"])
def test_shares_that_some_samples_would_miss_are_refused(router):
    with pytest.raises(ValueError, match="`how`='split' needs a `router` whose gates can all sta"):
        grow("PPO", "all", router, how="split")
