"""Policies learn with each setting of their algorithm, as in sb3-contrib's ``test_run``."""

import arena
import contrib_asked as asked
import contrib_guests as guests
import numpy as np
import pytest
import torch as th
from gymnasium.wrappers import TimeLimit
from sb3_contrib.common.torch_layers import BatchRenorm
from stable_baselines3.common.env_util import make_vec_env


def assert_learns(model, steps=32):
    """Train a little; losses are numbers and weights move, but where TRPO's search fails."""
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    arena.train(model, steps)
    logged = model.logger.name_to_value
    losses = [value for name, value in logged.items() if "loss" in name]
    assert losses
    assert np.isfinite(losses).all()
    moved = any(not th.equal(v, before[name]) for name, v in model.policy.state_dict().items())
    assert moved or logged.get("train/is_line_search_success") == 0


@asked.over(
    "entropy",
    guests.WITH_ACTOR,
    ent_coef={"learned": "auto", "fixed": 0.01, "learned from 0.01": "auto_0.01"},
)
def test_it_learns_with_any_entropy_coefficient(algorithm, placement, ent_coef):
    model = guests.make(algorithm, placement, model={"ent_coef": ent_coef})
    assert_learns(model)
    assert (model.log_ent_coef is None) == (ent_coef == 0.01)


@asked.over("critics", guests.WITH_ACTOR, n_critics={"one": 1, "three": 3})
def test_it_learns_with_any_number_of_critics(algorithm, placement, n_critics):
    model = guests.make(algorithm, placement, n_critics=n_critics)
    assert_learns(model)
    values = model.critic(th.zeros(2, 5), th.zeros(2, 2))
    assert (values.shape[1] if algorithm == "TQC" else len(values)) == n_critics


@asked.over("quantiles", ["QRDQN", "TQC"], n_quantiles={"few": 5, "many": 50})
def test_it_learns_with_any_number_of_quantiles(algorithm, placement, n_quantiles):
    model = guests.make(algorithm, placement, n_quantiles=n_quantiles)
    assert_learns(model)
    if algorithm == "TQC":
        assert model.critic(th.zeros(2, 5), th.zeros(2, 2)).shape == (2, 2, n_quantiles)
    else:
        assert model.quantile_net(th.zeros(2, 5)).shape == (2, n_quantiles, 4)


@asked.over("gSDE", guests.WITH_GSDE)
def test_it_learns_with_gsde_and_draws_its_noise_anew(algorithm, placement):
    model = guests.with_gsde(algorithm, placement)
    assert_learns(model)
    obs = model.policy.obs_to_tensor(arena.observe(model))[0]
    actor = getattr(model.policy, "actor", None)
    if actor is not None:
        assert (actor.get_std() > 0).all()
    if algorithm == "RecurrentPPO":
        return
    model.policy.reset_noise()
    first = model.policy._predict(obs)
    th.testing.assert_close(model.policy._predict(obs), first, rtol=0, atol=0)
    model.policy.reset_noise()
    assert not th.equal(model.policy._predict(obs), first)


@asked.over("n steps", guests.OFF_POLICY)
def test_it_learns_from_returns_of_several_steps(algorithm, placement):
    assert_learns(guests.make(algorithm, placement, model={"n_steps": 3}))


@asked.over("warm-up", ["CrossQ"])
def test_the_warm_up_reaches_every_batch_renorm(algorithm, placement):
    model = guests.make(algorithm, placement, renorm_warmup_steps=1)
    layers = [m for m in model.policy.modules() if isinstance(m, BatchRenorm)]
    assert layers
    assert all(layer.warmup_steps == 1 for layer in layers)
    assert_learns(model)


@asked.over("subsampling", ["TRPO"], actions={"discrete": arena.DISCRETE, "box": arena.BOX})
def test_it_learns_from_a_part_of_its_rollout(algorithm, placement, actions):
    env = arena.Arena(arena.FLAT, actions)
    assert_learns(guests.make(algorithm, placement, env=env, model={"sub_sampling_factor": 4}), 64)


@asked.over("several environments", guests.OFF_POLICY)
def test_it_learns_from_several_environments_whose_time_runs_out(algorithm, placement):
    def limited():
        return TimeLimit(arena.default_env(algorithm, "MoeMlpPolicy"), 5)

    env = make_vec_env(limited, n_envs=2)
    model = guests.make(algorithm, placement, env=env, model={"train_freq": 5})
    assert_learns(model, 60)
    assert model.replay_buffer.timeouts.any()


@asked.over("advantages", ["MaskablePPO"], normalize={"normalised": True, "as they are": False})
def test_it_learns_with_advantages_normalised_or_not(algorithm, placement, normalize):
    settings = {"normalize_advantage": normalize}
    assert_learns(guests.make(algorithm, placement, model=settings))


def test_a_loss_that_is_no_number_would_be_seen():
    model = arena.train(guests.make("TQC", "middle"))
    with th.no_grad():
        next(model.critic.parameters()).fill_(float("nan"))
    with pytest.raises((AssertionError, ValueError)):
        assert_learns(model)
