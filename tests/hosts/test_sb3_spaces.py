"""Every space that SB3 knows, as in its ``test_spaces``."""

import arena
import asked
import guests
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

OBSERVATIONS = {
    "number": spaces.Discrete(6),
    "choices": spaces.MultiDiscrete([4, 3]),
    "bits": spaces.MultiBinary(8),
    "rows of bits": spaces.MultiBinary((3, 2)),
}
ACTIONS = {
    "vector": arena.BOX,
    "matrix": spaces.Box(-1, 1, (2, 2), np.float32),
    "number": arena.DISCRETE,
    "choices": spaces.MultiDiscrete([3, 2]),
    "bits": spaces.MultiBinary(3),
}
TAKEN = {
    "DQN": {"number"},
    **{name: set(ACTIONS) for name in guests.ON_POLICY},
    **{name: {"vector", "matrix"} for name in guests.WITH_ACTOR},
}


@asked.over("observations", space=OBSERVATIONS)
def test_it_takes_discrete_and_binary_observations(algorithm, placement, space):
    env = Monitor(arena.Arena(space, arena.actions_of(algorithm)))
    model = arena.train(guests.make(algorithm, placement, env=env))
    assert np.isfinite(evaluate_policy(model, env, n_eval_episodes=2)[0])


@asked.over("actions")
def test_it_takes_every_action_space_of_its_algorithm_and_refuses_others(algorithm, placement):
    for name, space in ACTIONS.items():
        env = arena.Arena(arena.FLAT, space)
        if name in TAKEN[algorithm]:
            model = arena.train(guests.make(algorithm, placement, env=env))
            assert space.contains(model.predict(arena.FLAT.sample())[0])
        else:
            with pytest.raises(AssertionError, match=r"only supports .* as action spaces"):
                guests.make(algorithm, placement, env=env)


@asked.over("actions", guests.ON_POLICY)
def test_bits_of_two_axes_are_refused_as_sb3_does(algorithm, placement):
    env = arena.Arena(arena.FLAT, spaces.MultiBinary([2, 3]))
    with pytest.raises(AssertionError, match=r"Multi-dimensional MultiBinary\(.*\) action space"):
        guests.make(algorithm, placement, env=env)


@asked.over("gSDE of many", ["SAC"])
def test_gsde_takes_actions_of_two_axes_in_the_warm_up_too(algorithm, placement):
    env = arena.Arena(arena.FLAT, ACTIONS["matrix"])
    sde = {"use_sde": True, "sde_sample_freq": 2, "use_sde_at_warmup": True}
    model = arena.train(guests.make(algorithm, placement, env=env, model=sde))
    assert model.predict(arena.FLAT.sample())[0].shape == (2, 2)


LONG = spaces.Box(-1, 1, (2,), np.float64)
SEEN = {
    "float32": arena.BOX,
    "float64": LONG,
    "dict of float32": spaces.Dict({"a": arena.BOX, "b": arena.BOX}),
    "dict of both": spaces.Dict({"a": arena.BOX, "b": LONG}),
}


@asked.over(
    "float64",
    (*guests.ON_POLICY, *guests.WITH_ACTOR),
    seen=SEEN,
    done={"float32": arena.BOX, "float64": LONG},
)
def test_it_takes_float64_and_answers_in_the_environments_type(algorithm, placement, seen, done):
    alias = "MoeMultiInputPolicy" if isinstance(seen, spaces.Dict) else "MoeMlpPolicy"
    model = arena.train(guests.make(algorithm, placement, alias, arena.Arena(seen, done)))
    for deterministic in (True, False):
        action, _ = model.predict(seen.sample(), deterministic=deterministic)
        assert action.dtype == done.dtype
