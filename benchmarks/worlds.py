"""What the vector environments cost, as ratios of times measured side by side in one run.

``python -m benchmarks --only worlds`` prints and writes them.
"""

import statistics
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.timing import bounded, paired, ratio

Step = Callable[[], object]
GAMES = ("SpaceInvaders", "Breakout", "Asterix")
ROUNDS = 25
SLICE_S = 0.2


def run(rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Measure every vector environment, and return one row for each comparison.

    :param rounds: interleaved rounds per comparison
    """
    rows = [gymnax_row(game, 64, rounds) for game in GAMES]
    rows += [gymnax_row("Breakout", 256, rounds), multitask_row(64, rounds)]
    return [*rows, adapter_row(64, rounds), atari_row(8, rounds)]


def gymnax_row(game: str, num_envs: int, rounds: int) -> dict[str, Any]:
    """MinAtarVectorEnv's rate over that of gymnax's own step, jitted, with a copy to numpy."""
    steps = {"bare": bare_gymnax(game, num_envs), "ours": minatar(game, num_envs)}
    name = f"MinAtarVectorEnv / bare jitted step, {game}, {num_envs} copies"
    at_least = 0.92 if game == "SpaceInvaders" else 0.9
    return _row(name, steps, num_envs, rounds, at_least=at_least)


def multitask_row(num_envs: int, rounds: int) -> dict[str, Any]:
    """The time of MultiTaskVectorEnv over three games, over that of the three by themselves."""
    from sb3_moe_envs import make_multitask_vector

    env = make_multitask_vector(
        [f"sb3_moe_envs:SB3MoE/MinAtar-{game}-v1" for game in GAMES], num_envs
    )
    counts = np.bincount(env.get_task())
    parts = [minatar(game, int(count)) for game, count in zip(GAMES, counts, strict=True)]
    steps = {"ours": random_steps(env), "parts": lambda: [part() for part in parts]}
    name = f"MultiTaskVectorEnv / its parts, three games, {num_envs} copies"
    return _row(name, steps, num_envs, rounds, at_most=1.05)


def adapter_row(num_envs: int, rounds: int) -> dict[str, Any]:
    """The time of a step through GymnasiumVecEnv, over that of the environment by itself."""
    from sb3_moe.vec_env import GymnasiumVecEnv
    from sb3_moe_envs.vector.gymnax import MinAtarVectorEnv

    adapted = GymnasiumVecEnv(MinAtarVectorEnv("Breakout", num_envs))
    steps = {"ours": random_steps(adapted), "bare": minatar("Breakout", num_envs)}
    name = f"GymnasiumVecEnv / the world it adapts, Breakout, {num_envs} copies"
    return _row(name, steps, num_envs, rounds)


def atari_row(num_envs: int, rounds: int) -> dict[str, Any]:
    """The rate of AtariVectorEnv through GymnasiumVecEnv, over SB3's make_atari_env."""
    import ale_py
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    from sb3_moe.vec_env import GymnasiumVecEnv
    from sb3_moe_envs.vector.atari import AtariVectorEnv

    gym.register_envs(ale_py)
    wrapped = make_atari_env("ALE/Breakout-v5", num_envs, env_kwargs={"frameskip": 1})
    ours = GymnasiumVecEnv(AtariVectorEnv("breakout", num_envs, full_action_space=False))
    steps = {"bare": random_steps(VecFrameStack(wrapped, 4)), "ours": random_steps(ours)}
    name = f"AtariVectorEnv in GymnasiumVecEnv / make_atari_env, Breakout, {num_envs} copies"
    return _row(name, steps, num_envs, rounds, at_least=1.3)


def bare_gymnax(game: str, num_envs: int) -> Step:
    """Return a function that makes one step of gymnax and copies it to numpy."""
    import gymnax
    import jax

    env, params = gymnax.make(f"{game}-MinAtar", use_minimal_action_set=False)

    @jax.jit
    def step(key: Any, state: Any, actions: Any) -> Any:
        key, step_key = jax.random.split(key)
        keys = jax.random.split(step_key, num_envs)
        obs, state, reward, terminated, truncated, _ = jax.vmap(env.step, (0, 0, 0, None))(
            keys, state, actions, params
        )
        return key, state, (obs.astype(np.uint8), reward, terminated, truncated)

    key = jax.random.PRNGKey(0)
    _, state = jax.vmap(env.reset, (0, None))(jax.random.split(key, num_envs), params)
    actions = np.random.default_rng(0).integers(6, size=(64, num_envs))
    time = 0

    def one_step() -> object:
        nonlocal key, state, time
        time += 1
        key, state, outputs = step(key, state, actions[time % 64])
        return [np.array(output) for output in outputs]

    return one_step


def minatar(game: str, num_envs: int) -> Step:
    """Return a function that makes one step of our vector environment of the same game."""
    from sb3_moe_envs.vector.gymnax import MinAtarVectorEnv

    return random_steps(MinAtarVectorEnv(game, num_envs))


def random_steps(env: Any) -> Step:
    """Return a function that makes one random step of a Gymnasium or SB3 vector environment."""
    env.reset()
    space = getattr(env, "single_action_space", env.action_space)
    actions = np.random.default_rng(0).integers(int(space.n), size=(64, env.num_envs))
    time = 0

    def one_step() -> object:
        nonlocal time
        time += 1
        return env.step(actions[time % 64])

    return one_step


def _row(
    name: str,
    steps: dict[str, Step],
    num_envs: int,
    rounds: int,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> dict[str, Any]:
    """Time two steps side by side: a ratio of rates if it has a lower bound, else of times."""
    seconds = paired(steps, rounds=rounds, slice_s=SLICE_S)
    other = next(key for key in steps if key != "ours")
    over, under = (other, "ours") if at_least is not None else ("ours", other)
    value = ratio(seconds[over], seconds[under])
    rates = {key: num_envs / statistics.median(times) for key, times in seconds.items()}
    row = bounded(name, value, at_least, at_most)
    return row | {"ours_steps_per_s": rates["ours"], "theirs_steps_per_s": rates[other]}
