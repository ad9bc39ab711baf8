"""Training on a GPU: dense and mixtures, rollout buffers on it or not, compiled policies, memory.

``make bench ARGS="--only device --device cuda"`` fills the table where there is a GPU.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.timing import bounded, clock_on, paired, ratio
from benchmarks.training import turn
from sb3_moe.vec_env import DeviceRolloutBuffer, GymnasiumVecEnv

COPIES = (64, 256, 1024, 4096)
# Observations as large as MinAtar's; environments cost nothing, so that only training is timed.
WIDTH = 400
STEPS = 16
MINIBATCHES = 4
POLICIES: dict[str, dict[str, Any]] = {
    "dense": {"placement": "none"},
    "middle, soft, 8 experts": {"placement": "middle", "router": "soft", "num_experts": 8},
    "middle, top-1 of 8": {"placement": "middle", "router": "top_k", "num_experts": 8},
    "middle, top-1 of 64": {"placement": "middle", "router": "top_k", "num_experts": 64},
    "big, soft, 4 experts": {"placement": "big", "router": "soft", "num_experts": 4},
}
MIXTURE = "middle, soft, 8 experts"
HOW = (
    "Medians over interleaved rounds, measured side by side in one run: PPO with two networks of "
    f"64x64, {STEPS} steps of every copy and four epochs of {MINIBATCHES} minibatches a turn. "
    "Peak memory is torch's, of one turn."
)


class Free(gym.vector.VectorEnv[Any, Any, Any]):
    """Copies of an environment that costs nothing: the same observations at every step.

    :param num_envs: how many copies
    """

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
        self.single_observation_space = spaces.Box(-1, 1, (WIDTH,), np.float32)
        self.single_action_space = spaces.Discrete(6)
        self.observation_space = gym.vector.utils.batch_space(
            self.single_observation_space, num_envs
        )
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, num_envs)
        self._obs = np.random.default_rng(0).random((num_envs, WIDTH), np.float32)
        self._zeros, self._no = np.zeros(num_envs), np.zeros(num_envs, bool)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """Return the observations."""
        return self._obs, {}

    def step(self, actions: Any) -> Any:
        """Return the observations again."""
        return self._obs, self._zeros, self._no, self._no, {}


def run(
    device: str = "cpu", rounds: int = 5, copies: Sequence[int] = COPIES
) -> list[dict[str, Any]]:
    """Compare policies, buffers, and a compiled policy at each number of copies.

    :param device: where policies are; without a GPU there is nothing to measure
    :param rounds: interleaved rounds per comparison
    :param copies: numbers of parallel environments
    """
    if device == "cpu" or not th.cuda.is_available():
        print(f"device: left out, as it needs a GPU that torch can use, got device {device!r}")
        return []
    return [row for num_envs in copies for row in rows(device, rounds, num_envs)]


def rows(device: str, rounds: int, num_envs: int) -> list[dict[str, Any]]:
    """Return every row for one number of copies.

    :param device: where policies are
    :param rounds: interleaved rounds
    :param num_envs: parallel environments
    """
    models = {name: make(device, num_envs, options) for name, options in POLICIES.items()}
    for name in ("dense", MIXTURE):
        on_device = {"rollout_buffer_class": DeviceRolloutBuffer}
        models[f"{name}, buffer on the device"] = make(device, num_envs, POLICIES[name], on_device)
        compiled = models[f"{name}, compiled"] = make(device, num_envs, POLICIES[name])
        policy: Any = compiled.policy
        policy.evaluate_actions = th.compile(policy.evaluate_actions)
    turns = {name: turn(model, STEPS * num_envs) for name, model in models.items()}
    clock = clock_on(models["dense"].device.type)
    seconds = paired(turns, rounds=rounds, slice_s=0.0, warmups=2, clock=clock)
    return [
        bounded(
            f"{name} / dense, steps/s, {num_envs} copies", ratio(seconds["dense"], seconds[name])
        )
        | {
            "steps_per_s": STEPS * num_envs / statistics.median(seconds[name]),
            "peak_MiB": peak(device, turns[name]),
        }
        for name in turns
    ]


def make(
    device: str, num_envs: int, options: dict[str, Any], arguments: dict[str, Any] | None = None
) -> PPO:
    """Build a model of PPO.

    :param device: where its policy is
    :param num_envs: parallel environments
    :param options: of the policy
    :param arguments: further arguments of PPO
    """
    env: VecEnv = GymnasiumVecEnv(Free(num_envs))
    policy_kwargs = {"net_arch": [64, 64], "optimizer_kwargs": {"fused": True}} | options
    return PPO(
        "MoeMlpPolicy",
        env,
        n_steps=STEPS,
        batch_size=STEPS * num_envs // MINIBATCHES,
        n_epochs=4,
        seed=0,
        device=device,
        policy_kwargs=policy_kwargs,
        **(arguments or {}),
    )


def peak(device: str, call: Any) -> float | None:
    """Return the most memory that torch allocates in a call, in MiB; None if it isn't a GPU.

    :param device: whose memory
    :param call: what to run
    """
    if not device.startswith("cuda"):
        return None
    th.cuda.reset_peak_memory_stats(device)
    call()
    return th.cuda.max_memory_allocated(device) / 2**20
