"""Small environments and small models of every algorithm, for tests of the policies."""

from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.policies.registration import TABLE

NUM_TASKS = 3
ON_POLICY = ("PPO", "A2C", "TRPO", "MaskablePPO", "RecurrentPPO")
BOX_ACTIONS = ("SAC", "TD3", "DDPG", "TQC", "CrossQ")
PAIRS = [(name, alias) for name, entry in TABLE.items() for alias in entry.aliases]

FLAT = spaces.Box(-1, 1, (5,), np.float32)
IMAGE = spaces.Box(0, 1, (10, 10, 4), np.uint8)
# What SB3 itself takes for an image, as small as its NatureCNN allows.
SB3_IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
DISCRETE = spaces.Discrete(4)
BOX = spaces.Box(-1, 1, (2,), np.float32)


def with_task(space: spaces.Box) -> spaces.Dict:
    """Return the Dict space of an observation and its task."""
    return spaces.Dict({"obs": space, "task_id": spaces.Discrete(NUM_TASKS)})


def kind_of(alias: str) -> str:
    """Return ``"Mlp"``, ``"Cnn"`` or ``"MultiInput"``."""
    return alias.removeprefix("Moe").removesuffix("Policy").removesuffix("Lstm")


def sample(space: spaces.Space[Any], num_tasks: int = 0) -> Any:
    """Return a random observation, with a one-hot task id at its end if there are tasks."""
    obs = space.sample()
    if num_tasks:
        obs[..., -num_tasks:] = 0
        obs[..., -int(space.np_random.integers(num_tasks)) - 1] = 1
    return obs


class Arena(gym.Env[Any, Any]):
    """Random observations from any space, six steps an episode, paid for small actions.

    :param observation_space: what is seen
    :param action_space: what can be done
    :param num_tasks: tasks whose one-hot ends a Box observation
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any] = DISCRETE,
        num_tasks: int = 0,
    ):
        self.observation_space = observation_space
        self.action_space = action_space
        self.num_tasks = num_tasks
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
        obs = sample(self.observation_space, self.num_tasks)
        return obs, reward, self.steps >= 6, False, {}

    def action_masks(self) -> Any:
        """Forbid the third action, for MaskablePPO."""
        return np.array([True, True, False, True])


def actions_of(algorithm: str) -> spaces.Space[Any]:
    """Return an action space that the algorithm takes."""
    return BOX if algorithm in BOX_ACTIONS else DISCRETE


def default_env(algorithm: str, alias: str, num_tasks: int = 0) -> Arena:
    """Return an environment that the algorithm and the alias fit.

    :param num_tasks: put a one-hot of so many tasks behind a Box observation
    """
    if kind_of(alias) == "MultiInput":
        return Arena(with_task(IMAGE), actions_of(algorithm))
    space = FLAT if kind_of(alias) == "Mlp" else IMAGE
    *rest, last = space.shape
    low, high = float(space.low.min()), float(space.high.max())
    wide = spaces.Box(low, high, (*rest, last + num_tasks), space.dtype)
    return Arena(wide, actions_of(algorithm), num_tasks)


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """Return SB3's or sb3-contrib's class of that name."""
    module, class_name = TABLE[name].algorithm.split(":")
    found: type[BaseAlgorithm] = getattr(import_module(module), class_name)
    return found


def small(algorithm: str) -> dict[str, Any]:
    """Return arguments with which a few steps hold a few updates."""
    if algorithm not in ON_POLICY:
        return {
            "learning_starts": 8,
            "batch_size": 8,
            "train_freq": 4,
            "gradient_steps": 2,
            "buffer_size": 64,
        }
    sizes: dict[str, Any] = {"n_steps": 16}
    if algorithm != "A2C":
        sizes["batch_size"] = 16
    if algorithm in ("PPO", "MaskablePPO", "RecurrentPPO"):
        sizes["n_epochs"] = 2
    return sizes


def make(
    algorithm: str,
    alias: str = "MoeMlpPolicy",
    env: gym.Env[Any, Any] | None = None,
    *,
    seed: int | None = 0,
    model: dict[str, Any] | None = None,
    device: str = "cpu",
    **policy_kwargs: Any,
) -> Any:
    """Return a small model.

    :param algorithm: a key of the table of algorithms
    :param alias: policy name
    :param env: None: one that fits
    :param seed: of the model
    :param model: more arguments of the algorithm
    :param device: of torch
    :param policy_kwargs: options of the policy
    """
    if env is None:
        env = default_env(algorithm, alias)
    kwargs = small(algorithm) | (model or {})
    return algorithm_class(algorithm)(
        alias, env, seed=seed, device=device, policy_kwargs=policy_kwargs, **kwargs
    )


def train(model: Any, steps: int = 16) -> Any:
    """Train a little; the logger keeps what it was told last."""
    return model.learn(steps, log_interval=10**6)


def gradients_of_training(model: Any, module: Any, **arguments: Any) -> dict[str, th.Tensor]:
    """Train once and return the gradients with which a module's optimizer stepped last."""
    found = {}

    def keep(*_: Any) -> None:
        named = module.named_parameters()
        found.update({name: p.grad.clone() for name, p in named if p.grad is not None})

    handle = module.optimizer.register_step_pre_hook(keep)
    model.train(**arguments)
    handle.remove()
    assert found
    return found


def observe(model_or_policy: Any, n: int = 3) -> Any:
    """Return a batch of observations as the policy takes them."""
    policy = getattr(model_or_policy, "policy", model_or_policy)
    space = policy.observation_space
    num_tasks = (policy.features_extractor_kwargs or {}).get("num_tasks", 0)
    space.seed(7)
    samples = [sample(space, num_tasks) for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([each[key] for each in samples]) for key in space.spaces}
    return np.stack(samples)


def predict(model_or_policy: Any, obs: Any) -> Any:
    """Return the deterministic actions."""
    return model_or_policy.predict(obs, deterministic=True)[0]


def penalized(model: Any) -> list[str]:
    """Return the mixtures whose features are penalized: only these have a hook."""
    return [name for name, layer in model.policy.moe_layers().items() if layer._forward_hooks]


def assert_same_weights(a: th.nn.Module, b: th.nn.Module) -> None:
    """Compare two modules' parameters and buffers, names too, bit for bit."""
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert th.equal(tensor, theirs[name]), name
