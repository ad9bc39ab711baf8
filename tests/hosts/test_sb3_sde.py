"""State-dependent exploration, as in SB3's ``test_sde``."""

import arena
import asked
import guests
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

WITH_SDE = ("A2C", "PPO", "SAC")


class Kept(arena.Arena):
    """Keeps every action that it was given."""

    def step(self, action):
        self.actions = [*getattr(self, "actions", []), action]
        return super().step(action)


KINDS = {
    f"{'squashed' if squash else 'clipped'} and {'expln' if expln else 'exp'}": {
        "squash_output": squash,
        "use_expln": expln,
    }
    for squash in (True, False)
    for expln in (True, False)
}


@asked.over("gSDE", WITH_SDE, kind=KINDS)
def test_it_learns_with_gsde_and_keeps_actions_in_their_bounds(algorithm, placement, kind):
    env = Kept(arena.FLAT, spaces.Box(-2, 2, (2,), np.float32))
    options = dict(kind)
    squash = options.pop("squash_output")
    if algorithm == "SAC":
        squash = True  # as ever
    else:
        options["squash_output"] = squash
    sde = {"use_sde": True, "sde_sample_freq": 4}
    model = guests.make(algorithm, placement, env=env, model=sde, log_std_init=-2, **options)
    name = next(key for key in model.policy.state_dict() if key.endswith("log_std"))
    before = model.policy.state_dict()[name].clone()
    arena.train(model, 24)
    assert not th.equal(model.policy.state_dict()[name], before)
    off_policy = algorithm == "SAC"
    buffer = model.replay_buffer if off_policy else model.rollout_buffer
    played = np.stack(env.actions)[-(len(env.actions) if off_policy else model.n_steps) :]
    stored = buffer.actions.reshape(-1, 2)[: len(played)]
    # What is stored is squashed into [-1, 1], or not yet clipped.
    expected = 2 * stored if squash else np.clip(stored, -2, 2)
    np.testing.assert_allclose(played, expected, rtol=1e-5, atol=1e-6)
    model.policy.reset_noise()
    if algorithm == "SAC":
        assert (model.policy.actor.get_std() > 0).all()


@asked.over("gSDE refused", guests.ON_POLICY)
def test_gsde_and_squashing_are_refused_where_sb3_does(algorithm, placement):
    with pytest.raises(ValueError, match="can only be used with continuous actions"):
        guests.make(algorithm, placement, model={"use_sde": True})
    env = arena.Arena(arena.FLAT, arena.BOX)
    with pytest.raises(AssertionError, match="use_sde=True"):
        guests.make(algorithm, placement, env=env, squash_output=True)
