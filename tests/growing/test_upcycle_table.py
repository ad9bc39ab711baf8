"""Every algorithm, placement and router: experts begin by doing what the dense model did."""

import io

import pytest
from dense_models import NUM_TASKS, PLACES, ROUTERS, dense, gap

from sb3_moe.growing import upcycle
from sb3_moe.policies.registration import TABLE

# Routers under which every sample meets every expert.
SHARED = ("soft", "embedding", "uniform", "random", "every")


def grow(algorithm, place, router, **kwargs):
    return upcycle(
        dense(algorithm), placement=place, num_tasks=NUM_TASKS, **ROUTERS[router], **kwargs
    )


@pytest.mark.covering
@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("algorithm", TABLE)
def test_copies_do_together_what_the_dense_model_did(algorithm, place, router):
    assert gap(grow(algorithm, place, router), dense(algorithm)) < 1e-5


@pytest.mark.covering
@pytest.mark.parametrize("router", SHARED)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("algorithm", TABLE)
def test_shares_do_together_what_the_dense_model_did(algorithm, place, router):
    assert gap(grow(algorithm, place, router, how="split"), dense(algorithm)) < 1e-5


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("router", "text"),
    [
        ("task", "`how`='split' needs a `router` whose gates can all start as 1/E"),
        ("one", "needs all shares \\(`top_k` must be 4\\), got 'top_k'"),
    ],
)
def test_shares_that_some_samples_would_miss_are_refused(place, router, text):
    with pytest.raises(ValueError, match=text):
        grow("PPO", place, router, how="split")


@pytest.mark.covering
@pytest.mark.parametrize(
    ("how", "router"),
    [*(("copy", each) for each in ROUTERS), *(("split", each) for each in SHARED)],
)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("algorithm", TABLE)
def test_what_has_grown_is_saved_loaded_and_learns(algorithm, place, how, router):
    model = grow(algorithm, place, router, how=how)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = type(model).load(file, env=model.get_env())
    assert gap(loaded, model) == 0
    assert model.num_timesteps == dense(algorithm).num_timesteps > 0
    for each in (model, loaded):
        before = each.num_timesteps
        each.learn(32, reset_num_timesteps=False)
        assert each.num_timesteps > before
    assert gap(model, dense(algorithm)) > 0
