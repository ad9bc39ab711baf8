"""Models that version 0.1.0 saved, described so that every version can go on with them.

The options are spelt as 0.1.0 spelt them. Change nothing here but by adding what a new version
writes: the files in ``fixtures/v0_1_0`` were made with it.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces

from sb3_moe.callbacks import LinearPerBlock
from sb3_moe.vec_env import DeviceReplayBuffer, DeviceRolloutBuffer

NUM_TASKS = 3
ALGORITHMS = {
    "PPO": "stable_baselines3",
    "A2C": "stable_baselines3",
    "DQN": "stable_baselines3",
    "SAC": "stable_baselines3",
    "TD3": "stable_baselines3",
    "DDPG": "stable_baselines3",
    "TRPO": "sb3_contrib",
    "MaskablePPO": "sb3_contrib",
    "QRDQN": "sb3_contrib",
    "TQC": "sb3_contrib",
    "CrossQ": "sb3_contrib",
    "RecurrentPPO": "sb3_contrib",
}
ON_POLICY = ("PPO", "A2C", "TRPO", "MaskablePPO", "RecurrentPPO")
BOX_ACTIONS = ("SAC", "TD3", "DDPG", "TQC", "CrossQ")

FLAT = spaces.Box(-1, 1, (3,), np.float32)
ONEHOT = spaces.Box(-1, 1, (3 + NUM_TASKS,), np.float32)
IMAGE = spaces.Box(0, 1, (5, 5, 2), np.uint8)
CHANNELS = spaces.Box(0, 1, (5, 5, 2 + NUM_TASKS), np.uint8)
LARGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
TASK = spaces.Discrete(NUM_TASKS)
SPACES: dict[str, spaces.Space[Any]] = {
    "flat": FLAT,
    "onehot": ONEHOT,
    "image": IMAGE,
    "channels": CHANNELS,
    "large": LARGE,
    "flat+task": spaces.Dict({"obs": FLAT, "task_id": TASK}),
    "image+task": spaces.Dict({"obs": IMAGE, "task_id": TASK}),
}
MLP, CNN, MULTI = "MoeMlpPolicy", "MoeCnnPolicy", "MoeMultiInputPolicy"


class Case(NamedTuple):
    """A model: its algorithm, policy, observations (a key of ``SPACES``) and arguments."""

    algorithm: str
    alias: str
    space: str
    policy_kwargs: dict[str, Any]
    model_kwargs: dict[str, Any] | None = None
    box_actions: bool = False


def with_tasks(**kwargs: Any) -> dict[str, Any]:
    return {"features_extractor_kwargs": {"num_tasks": NUM_TASKS, **kwargs}}


CASES: dict[str, Case] = {
    "ppo-sb3-dense": Case("PPO", "MlpPolicy", "flat", {}),
    "ppo-none": Case("PPO", MLP, "flat", {"placement": "none"}),
    "ppo-none-blind": Case("PPO", MULTI, "flat+task", {"placement": "none", "task_input": "none"}),
    "ppo-middle-soft": Case(
        "PPO", MLP, "flat", {"num_experts": 3, "num_slots": 2, "normalize_router": True}
    ),
    "ppo-big-task": Case("PPO", MULTI, "image+task", {"placement": "big", "router": "task"}),
    "ppo-big-flat-encoder": Case(
        "PPO",
        MULTI,
        "image+task",
        {
            "placement": "big",
            "num_experts": 2,
            "features_extractor_kwargs": {"encoder": "flat"},
            "activation_fn": th.nn.ReLU,
        },
    ),
    "ppo-per-tower": Case(
        "PPO",
        MLP,
        "onehot",
        {
            "placement": {"pi": "big", "vf": "middle"},
            "router": {"pi": "top_k", "vf": "soft"},
            "num_experts": {"pi": 2, "vf": 3},
            "expert_width": {"pi": None, "vf": 5},
            "task_input": {"pi": "router", "vf": "experts"},
            "net_arch": {"pi": [4], "vf": [4, 4]},
            **with_tasks(),
        },
    ),
    "ppo-none-in-one-tower": Case(
        "PPO", MLP, "onehot", {"placement": {"pi": "none", "vf": "final"}, **with_tasks()}
    ),
    "ppo-conv-tokens": Case(
        "PPO", CNN, "image", {"tokens": "conv", "num_experts": 2, "num_slots": 3}
    ),
    "ppo-nature": Case("PPO", CNN, "large", {"placement": "final", "num_experts": 2}),
    "ppo-impala": Case(
        "PPO",
        CNN,
        "image",
        {"placement": "final", "features_extractor_kwargs": {"encoder": "impala"}},
    ),
    "a2c-all-top_k": Case(
        "A2C",
        MLP,
        "onehot",
        {
            "placement": "all",
            "router": "top_k",
            "top_k": 2,
            "num_experts": 3,
            "bias_rate": 0.01,
            "balance_coef": 0.02,
            "importance_coef": 0.03,
            "z_coef": 0.01,
            **with_tasks(),
        },
    ),
    "ppo-device-buffer": Case(
        "PPO",
        MLP,
        "flat",
        {"router": "uniform", "num_experts": 2},
        {
            "rollout_buffer_class": DeviceRolloutBuffer,
            "learning_rate": LinearPerBlock(1e-3, num_blocks=2),
        },
    ),
    "a2c-gsde": Case("A2C", MLP, "flat", {}, {"use_sde": True}, box_actions=True),
    "a2c-channels": Case(
        "A2C",
        CNN,
        "channels",
        {"placement": "final", "router": "task", **with_tasks(features_dim=4)},
    ),
    "dqn-middle-top_k": Case(
        "DQN", MLP, "flat", {"router": "top_k", "bias_rate": 0.01, "router_noise": 0.1}
    ),
    "dqn-device-buffer": Case(
        "DQN",
        MLP,
        "flat",
        {"placement": "big", "num_experts": 2},
        {"replay_buffer_class": DeviceReplayBuffer},
    ),
    "dqn-feature-tokens": Case(
        "DQN",
        CNN,
        "image",
        {"tokens": "feature", "router": "expert_choice", "top_k": 2, "num_experts": 2},
    ),
    "dqn-multi": Case("DQN", MULTI, "image+task", {"placement": "final", "num_experts": 2}),
    "sac-all-uniform": Case(
        "SAC", MULTI, "flat+task", {"placement": "all", "router": "uniform", "num_experts": 2}
    ),
    "sac-gsde": Case(
        "SAC",
        MLP,
        "flat",
        {"placement": {"pi": "final", "qf": "big"}, "num_experts": 2},
        {"use_sde": True},
    ),
    "td3-middle-random": Case("TD3", MLP, "flat", {"router": "random", "num_experts": 2}),
    "td3-cnn": Case("TD3", CNN, "image", {"tokens": "conv", "num_experts": 2, "num_slots": 1}),
    "ddpg-big-top_k": Case(
        "DDPG", MULTI, "image+task", {"placement": "big", "router": "top_k", "num_experts": 2}
    ),
    "trpo-final-soft": Case("TRPO", MLP, "flat", {"placement": "final", "num_experts": 2}),
    "maskable-all-soft": Case(
        "MaskablePPO", MULTI, "flat+task", {"placement": "all", "task_input": "experts"}
    ),
    "qrdqn-big-soft": Case(
        "QRDQN", MLP, "flat", {"placement": "big", "n_quantiles": 5, "num_experts": 2}
    ),
    "tqc-middle-soft": Case(
        "TQC", MULTI, "flat+task", {"n_quantiles": 5, "num_experts": 2, "router_noise": 0.1}
    ),
    "tqc-final-task": Case(
        "TQC", MULTI, "flat+task", {"placement": "final", "router": "task", "n_quantiles": 5}
    ),
    "crossq-middle-soft": Case("CrossQ", MLP, "flat", {"num_experts": 2}),
    "crossq-big-top_k": Case(
        "CrossQ",
        MLP,
        "onehot",
        {"placement": "big", "router": "top_k", "num_experts": 2, **with_tasks()},
    ),
    "recurrent-middle-soft": Case(
        "RecurrentPPO",
        "MoeMultiInputLstmPolicy",
        "flat+task",
        {"lstm_hidden_size": 4, "num_experts": 2},
    ),
    "recurrent-big-top_k": Case(
        "RecurrentPPO",
        "MoeMlpLstmPolicy",
        "flat",
        {
            "placement": {"pi": "big", "vf": "final"},
            "router": "top_k",
            "num_experts": 2,
            "lstm_hidden_size": 4,
            "enable_critic_lstm": False,
            "shared_lstm": True,
        },
    ),
}
# One of each class of policies; ``policy.save`` writes another file than ``model.save``.
POLICIES = (
    "ppo-per-tower",
    "ppo-conv-tokens",
    "a2c-channels",
    "dqn-middle-top_k",
    "sac-all-uniform",
    "td3-middle-random",
    "trpo-final-soft",
    "maskable-all-soft",
    "qrdqn-big-soft",
    "tqc-final-task",
    "crossq-big-top_k",
    "recurrent-big-top_k",
)


def sample(space: spaces.Space[Any], num_tasks: int) -> Any:
    """Return a random observation, with a one-hot task id at its end if there are tasks."""
    obs = space.sample()
    if num_tasks:
        obs[..., -num_tasks:] = 0
        obs[..., -int(space.np_random.integers(num_tasks)) - 1] = 1
    return obs


class World(gym.Env[Any, Any]):
    """Random observations, six steps an episode, paid for small actions."""

    def __init__(self, case: Case) -> None:
        self.observation_space = SPACES[case.space]
        box = case.box_actions or case.algorithm in BOX_ACTIONS
        actions: Any = spaces.Box(-1, 1, (2,), np.float32) if box else spaces.Discrete(4)
        self.action_space = actions
        self.num_tasks = num_tasks_of(case)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return sample(self.observation_space, self.num_tasks), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        reward = -float(np.abs(action).mean()) + self.np_random.normal()
        return sample(self.observation_space, self.num_tasks), reward, self.steps >= 6, False, {}

    def action_masks(self) -> Any:
        return np.array([True, True, False, True])


def num_tasks_of(case: Case) -> int:
    return case.policy_kwargs.get("features_extractor_kwargs", {}).get("num_tasks", 0)


def algorithm_class(name: str) -> Any:
    return getattr(import_module(ALGORITHMS[name]), name)


def build(case: Case) -> Any:
    """Return the model before its first step."""
    if case.algorithm in ON_POLICY:
        sizes: dict[str, Any] = {"n_steps": 16}
        if case.algorithm != "A2C":
            sizes["batch_size"] = 16
        if case.algorithm in ("PPO", "MaskablePPO", "RecurrentPPO"):
            sizes["n_epochs"] = 2
    else:
        sizes = {
            "learning_starts": 8,
            "batch_size": 8,
            "train_freq": 4,
            "gradient_steps": 2,
            "buffer_size": 64,
        }
    kwargs = {"net_arch": [4], **case.policy_kwargs}
    return algorithm_class(case.algorithm)(
        case.alias,
        World(case),
        seed=0,
        device="cpu",
        policy_kwargs=kwargs,
        **sizes,
        **(case.model_kwargs or {}),
    )


def train(model: Any, steps: int) -> Any:
    """Train on; SB3 counts its steps on."""
    return model.learn(steps, reset_num_timesteps=False, log_interval=10**6)


def observe(case: Case, n: int = 3) -> Any:
    """Return a batch of observations."""
    space = SPACES[case.space]
    space.seed(7)
    samples = [sample(space, num_tasks_of(case)) for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([each[key] for each in samples]) for key in space.spaces}
    return np.stack(samples)


def act(policy: Any, obs: Any) -> np.ndarray:
    """Return the deterministic actions of a model or a policy."""
    return policy.predict(obs, deterministic=True)[0]


@th.no_grad()
def judge(policy: Any, obs: Any, actions: np.ndarray) -> np.ndarray:
    """Return values: V(s), Q(s, .) or Q(s, a); of a recurrent policy its next hidden states."""
    if hasattr(policy, "lstm_actor"):
        return np.concatenate(policy.predict(obs, deterministic=True)[1])
    tensors, _ = policy.obs_to_tensor(obs)
    if hasattr(policy, "predict_values"):
        values = policy.predict_values(tensors)
    elif hasattr(policy, "critic"):
        scaled = th.as_tensor(policy.scale_action(actions))
        values = policy.critic(tensors, scaled)
    else:
        values = getattr(policy, "q_net", None) or policy.quantile_net
        values = values(tensors)
    return (th.cat(values, dim=1) if isinstance(values, tuple) else values).numpy()


def digest(module: th.nn.Module) -> str:
    """Return a checksum of parameters and buffers, names included."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def weights(module: th.nn.Module) -> dict[str, np.ndarray]:
    """Return a checksum, and each tensor's sum of absolute values, for other machines."""
    sums = [float(tensor.double().abs().sum()) for tensor in module.state_dict().values()]
    return {"digest": np.array(digest(module)), "sums": np.array(sums)}


def behaviour(model: Any, case: Case) -> dict[str, np.ndarray]:
    """Return what a loaded model does, and what it becomes when it trains on."""
    obs = observe(case)
    keys = list(model.policy.state_dict())
    actions = act(model, obs)
    values = judge(model.policy, obs, actions)
    train(model, 16)
    return {"keys": np.array(keys), "actions": actions, "values": values, **weights(model.policy)}
