"""What every model does: it learns, predicts the same twice, and goes on alike from each file."""

import copy
from pathlib import Path
from typing import Any

import arena
import numpy as np
import torch as th

import sb3_moe
from sb3_moe.policies.options import DEFAULTS
from sb3_moe.saving.snapshot import preserved_generators


def learn(model: Any) -> None:
    """Train a little: losses are finite."""
    arena.train(model, 24)
    losses = [v for name, v in model.logger.name_to_value.items() if "loss" in name]
    assert losses
    assert np.isfinite(losses).all(), losses


def took_a_step(model: Any) -> bool:
    """Say whether the policy was changed: TRPO takes no step where its line search fails."""
    return bool(model.logger.name_to_value.get("train/is_line_search_success", 1))


def options_of(policy: Any) -> dict[str, Any]:
    """Return the arguments that the policy gives back."""
    found: dict[str, Any] = policy._get_constructor_parameters()
    return {name: value for name, value in found.items() if name != "lr_schedule"}


def step(model: Any) -> None:
    """Take a gradient step, and leave the generators as they were."""
    with preserved_generators():
        if hasattr(model, "replay_buffer"):
            model.train(gradient_steps=3, batch_size=8)
        else:
            model.train()


def assert_goes_on_alike(model: Any, loaded: Any) -> None:
    """Take bit for bit the same next step, on the same data."""
    arena.assert_same_weights(model.policy, loaded.policy)
    loaded.set_logger(model.logger)
    for name in ("replay_buffer", "rollout_buffer"):
        if hasattr(model, name):
            setattr(loaded, name, copy.deepcopy(getattr(model, name)))
    before = copy.deepcopy(model.policy.state_dict())
    step(model)
    step(loaded)
    arena.assert_same_weights(model.policy, loaded.policy)
    after = model.policy.state_dict()
    moved = any(not th.equal(before[name], after[name]) for name in before)
    assert moved or type(model).__name__ == "TRPO"


def check(model: Any, folder: Path, obs: Any = None, **load: Any) -> Any:
    """Train a model, put it into files of every kind, and return what comes out of ours.

    :param model: of any algorithm, with a policy of ours or SB3's
    :param folder: for the files
    :param obs: what to predict for; None: a few random ones
    :param load: more arguments of ``sb3_moe.load``
    """
    learn(model)
    # Learning rates that fall to zero have not yet.
    model._current_progress_remaining = 0.3
    obs = arena.observe(model) if obs is None else obs
    expected = arena.predict(model, obs)
    np.testing.assert_array_equal(arena.predict(model, obs), expected)
    model.save(folder / "model")
    model.policy.save(folder / "policy")
    sb3_moe.save(model, folder / "model.moe")
    loaded = sb3_moe.load(folder / "model.moe", device="cpu", **load)
    assert (type(loaded), type(loaded.policy)) == (type(model), type(model.policy))
    policies = [
        loaded.policy,
        type(model).load(folder / "model", device="cpu").policy,
        type(model.policy).load(folder / "policy", device="cpu"),
    ]
    given = options_of(model.policy)
    assert set(DEFAULTS) <= set(given) or not hasattr(model.policy, "moe_layers")
    for policy in policies:
        np.testing.assert_array_equal(arena.predict(policy, obs), expected)
        assert options_of(policy) == given
    for name in ("num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert_goes_on_alike(model, loaded)
    return loaded
