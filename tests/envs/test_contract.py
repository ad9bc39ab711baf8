"""What every environment promises: seeds, spaces, autoreset, arrays of its own, and its state."""

import importlib.util
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from counting import counting_tasks
from gymnasium.vector import AutoresetMode

from sb3_moe_envs import Cycle, Interleave, MultiTaskEnv, make_multitask_vector
from sb3_moe_envs.snapshot import restore, snapshot

OURS = "sb3_moe_envs:SB3MoE/"
CONFLICT = {"permutation": (1, 0, 3, 2), "signs": (1, -1, 1, -1), "actions": (1, 0)}
MODULES = {"MinAtar": "gymnax", "Shuffled": "gymnax", "Atari": "ale_py", "Hopper": "mujoco",
           "MetaWorld": "metaworld"}  # fmt: skip


def built(name, make=gym.make, **kwargs):
    for prefix, module in MODULES.items():
        if name.startswith(prefix) and importlib.util.find_spec(module) is None:
            pytest.skip(f"{name} needs {module}, which isn't installed")
    return make(f"{OURS}{name}", **kwargs)


def many(name, **kwargs):
    return partial(built, name, gym.make_vec, num_envs=4, **kwargs)


def joined(tasks, **kwargs):
    return partial(make_multitask_vector, tasks, 4, **kwargs)


# Whether the state is all, too.
SINGLE = {
    "CartPole": (partial(built, "CartPole-v0", gravity=5.0), True),
    "Pendulum": (partial(built, "Pendulum-v0", g=5.0), True),
    "conflicting": (partial(built, "ConflictingCartPole-v0", **CONFLICT), True),
    "MinAtar": (partial(built, "MinAtar-Breakout-v1"), True),
    "shuffled": (partial(built, "ShuffledBreakout-v0", shuffle=3), True),
    "Hopper": (partial(built, "Hopper-v0", gravity=0.5), False),
    "Meta-World": (partial(built, "MetaWorld-v0", task="door-close"), None),
    "multi-task": (partial(MultiTaskEnv, counting_tasks(3), schedule=Cycle(40)), True),
}
VECTOR = {
    "MinAtar": (many("MinAtar-Breakout-v1"), True),
    "shuffled": (many("ShuffledBreakout-v0", shuffle=3), True),
    "conflicting": (many("ConflictingCartPole-v0", **CONFLICT), True),
    "Atari": (many("Atari-Pong-v0"), False),
    "interleaved": (joined(counting_tasks(3)), True),
    "in turn": (joined(counting_tasks(3), schedule=Cycle(40, num_cycles=None)), True),
    "slots of their own": (joined(counting_tasks(3), schedule=Interleave("episodes")), True),
    "in processes": (joined(counting_tasks(3), vectorization="async"), True),
    "classic control": (joined("Classic/Mixed3"), True),
    "conflicting tasks": (joined("Conflict/CartPole4"), True),
}


def actions_for(space, num_steps):
    space.seed(0)
    return [space.sample() for _ in range(num_steps)]


def play(env, actions):
    """Return everything but infos; a single environment is reset where it ends."""
    seen = []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append((obs, reward, terminated, truncated))
        if np.ndim(terminated) == 0 and (terminated or truncated):
            seen.append(env.reset()[0])
    return seen


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_environment_follows_its_seed_and_goes_on_from_its_state(name):
    build, exact = SINGLE[name]
    env, again, resumed = build(), build(), build()
    actions = actions_for(env.action_space, 60)
    start, info = env.reset(seed=3)
    assert start in env.observation_space
    assert isinstance(info, dict)
    again.reset(seed=3)
    np.testing.assert_equal(play(env, actions[:20]), play(again, actions[:20]))
    resumed.reset(seed=4)
    state = snapshot(env)
    assert exact is None or (state is not None) == exact
    if state is not None and exact:
        resumed = restore(resumed, state)
        np.testing.assert_equal(play(resumed, actions[20:]), play(env, actions[20:]))
    for each in (env, again, resumed):
        each.close()


@pytest.mark.parametrize("name", VECTOR)
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # others may have loaded jax
def test_a_vector_environment_follows_its_seed_resets_in_the_same_step_and_goes_on(name):
    build, exact = VECTOR[name]
    env, again, resumed = build(), build(), build()
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    actions = actions_for(env.action_space, 60)
    starts = [each.reset(seed=3)[0] for each in (env, again)]
    np.testing.assert_equal(*starts)
    assert starts[0] in env.observation_space
    before = None
    for action in actions[:40]:
        *result, infos = env.step(action)
        np.testing.assert_equal(result, list(again.step(action)[:4]))
        assert result[0] in env.observation_space
        done = result[2] | result[3]
        assert infos.get("_final_obs", np.zeros(4, bool)).tolist() == done.tolist()
        for row in np.flatnonzero(done):
            assert infos["final_obs"][row] in env.single_observation_space
        assert before is None or not np.shares_memory(before, result[1])
        before = result[1]
    if exact:
        resumed.reset(seed=4)
        resumed.unwrapped.load_state_dict(env.unwrapped.state_dict())
        np.testing.assert_equal(play(resumed, actions[40:]), play(env, actions[40:]))
    np.testing.assert_equal(env.reset(seed=3)[0], starts[0])
    for each in (env, again, resumed):
        each.close()
