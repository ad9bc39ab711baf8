"""Steps per second of training with experts against a dense policy of as many parameters."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env

from benchmarks.timing import bounded, clock_on, paired, ratio
from sb3_moe.layers import keep_freed_memory
from sb3_moe.measures import matching_net_arch
from sb3_moe.presets import MINATAR_PPO, with_policy

MOE = {"placement": "middle", "router": "soft", "num_experts": 8}
# The ratio of steps per second that we mean to reach, and of three games to Breakout alone.
AT_LEAST = {"cartpole": 0.88, "minatar": 0.8, "dqn": 0.8, "sac": 0.95, "mtrl3": 0.74}
Make = Callable[[dict[str, Any]], BaseAlgorithm]


def run(device: str = "cpu", rounds: int = 5) -> list[dict[str, Any]]:
    """Measure each algorithm with both policies.

    :param device: where the policies are
    :param rounds: interleaved rounds per comparison
    """
    rows = cases(device, rounds)
    # What it sets can't be unset, so it comes second.
    if device == "cpu" and keep_freed_memory():
        rows += cases(device, rounds, after=", freed memory kept")
    return rows


def cases(device: str, rounds: int, after: str = "") -> list[dict[str, Any]]:
    """Return one row per algorithm; ``after`` is put behind its name."""
    cartpole, minatar = "PPO, CartPole, 8 copies", "PPO, MinAtar Breakout, 64 copies"
    return [
        compare(cartpole + after, ppo_cartpole(device), 1024, rounds, AT_LEAST["cartpole"]),
        compare(minatar + after, ppo_minatar(device), 8192, rounds, AT_LEAST["minatar"]),
        compare("DQN, CartPole" + after, dqn(device), 500, rounds, AT_LEAST["dqn"]),
        compare("SAC, Pendulum" + after, sac(device), 50, rounds, AT_LEAST["sac"]),
        three_games(after, device, 8192, rounds),
    ]


def compare(
    name: str, make: Make, steps: int, rounds: int, at_least: float | None = None
) -> dict[str, Any]:
    """Train two models side by side, a few steps at a time; the same optimiser on both sides.

    :param name: what is compared
    :param make: from ``policy_kwargs`` to a model
    :param steps: environment steps per turn
    :param rounds: how many turns each has
    :param at_least: the ratio that we mean to reach
    """
    moe, dense = beside_dense(make)
    turns = {"ours": turn(moe, steps), "dense": turn(dense, steps)}
    seconds = paired(turns, rounds=rounds, slice_s=0.0, warmups=1, clock=clock_on(moe.device.type))
    row = bounded(
        f"SoftMoE / dense of as many parameters, steps/s, {name}",
        ratio(seconds["dense"], seconds["ours"]),
        at_least,
    )
    return row | {
        "ours_steps_per_s": steps / statistics.median(seconds["ours"]),
        "dense_steps_per_s": steps / statistics.median(seconds["dense"]),
        "ours_parameters": num_parameters(moe),
        "dense_parameters": num_parameters(dense),
    }


def beside_dense(
    make: Make, options: Mapping[str, Any] = MOE
) -> tuple[BaseAlgorithm, BaseAlgorithm]:
    """Return a model with experts and a dense one of as many parameters, with one optimiser.

    :param make: from ``policy_kwargs`` to a model
    :param options: of the policy with experts
    """
    # SB3 writes into the dict that it is given.
    moe = make(dict(options))
    policy_class: Any = type(moe.policy)
    base = {k: v for k, v in moe.policy_kwargs.items() if k != "use_sde"}
    net_arch = matching_net_arch(
        policy_class, moe.observation_space, moe.action_space, base, "parameters"
    )
    optimizer = {"fused": True, "eps": moe.policy.optimizer_kwargs.get("eps", 1e-8)}
    return moe, make({"placement": "none", "net_arch": net_arch, "optimizer_kwargs": optimizer})


def three_games(after: str, device: str, steps: int, rounds: int) -> dict[str, Any]:
    """Train SB3's dense policy on three games of MinAtar, and on Breakout alone."""
    dense = {"placement": "none"}
    models = {"ours": ppo_mtrl3(device)(dict(dense)), "alone": ppo_minatar(device)(dict(dense))}
    turns = {name: turn(model, steps) for name, model in models.items()}
    clock = clock_on(models["ours"].device.type)
    seconds = paired(turns, rounds=rounds, slice_s=0.0, warmups=1, clock=clock)
    row = bounded(
        f"MTRL3 / Breakout alone, steps/s, dense PPO, 64 copies{after}",
        ratio(seconds["alone"], seconds["ours"]),
        AT_LEAST["mtrl3"],
    )
    return row | {f"{name}_steps_per_s": steps / statistics.median(seconds[name]) for name in turns}


def turn(model: BaseAlgorithm, steps: int) -> Callable[[], object]:
    return lambda: model.learn(steps, reset_num_timesteps=False)


def num_parameters(model: BaseAlgorithm) -> int:
    return sum(p.numel() for p in model.policy.parameters() if p.requires_grad)


def ppo_cartpole(device: str) -> Make:
    def make(policy_kwargs: dict[str, Any]) -> BaseAlgorithm:
        env = make_vec_env("CartPole-v1", 8, seed=0)
        kwargs: dict[str, Any] = {"n_steps": 128, "batch_size": 256, "seed": 0, "device": device}
        return PPO("MoeMlpPolicy", env, policy_kwargs=policy_kwargs, **kwargs)

    return make


def ppo_minatar(device: str) -> Make:
    from sb3_moe.vec_env import GymnasiumVecEnv
    from sb3_moe_envs.minatar import MinAtarVectorEnv

    def make(policy_kwargs: dict[str, Any]) -> BaseAlgorithm:
        env = GymnasiumVecEnv(MinAtarVectorEnv("Breakout", 64))
        kwargs = MINATAR_PPO | {
            "policy_kwargs": MINATAR_PPO["policy_kwargs"] | policy_kwargs,
            "seed": 0,
            "device": device,
        }
        return PPO("MoeMlpPolicy", env, **kwargs)

    return make


def ppo_mtrl3(device: str) -> Make:
    from sb3_moe.vec_env import make_multitask_vec_env

    def make(policy_kwargs: dict[str, Any]) -> BaseAlgorithm:
        env = make_multitask_vec_env("MinAtar/MTRL3", 64, seed=0)
        kwargs = with_policy(MINATAR_PPO, **policy_kwargs) | {"seed": 0, "device": device}
        return PPO("MoeMultiInputPolicy", env, **kwargs)

    return make


def dqn(device: str) -> Make:
    def make(policy_kwargs: dict[str, Any]) -> BaseAlgorithm:
        env = gym.make("CartPole-v1")
        kwargs: dict[str, Any] = {"learning_starts": 100, "seed": 0, "device": device}
        return DQN("MoeMlpPolicy", env, policy_kwargs=policy_kwargs, **kwargs)

    return make


def sac(device: str) -> Make:
    def make(policy_kwargs: dict[str, Any]) -> BaseAlgorithm:
        env = gym.make("Pendulum-v1")
        kwargs: dict[str, Any] = {"learning_starts": 100, "seed": 0, "device": device}
        return SAC("MoeMlpPolicy", env, policy_kwargs=policy_kwargs, **kwargs)

    return make
