"""Gymnasium's environments with other physics or other goals, and a vectorized CartPole.

An agent can tell tasks with different physics by their transitions, and tasks with different goals
by their rewards alone.
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv
from gymnasium.utils import seeding

from sb3_moe_envs.checks import (
    Env,
    EnvStep,
    Info,
    Options,
    ResetResult,
    Seed,
    State,
    StepResult,
    finite,
    positive,
    require_extra,
    seed_of_each,
)
from sb3_moe_envs.vector.batched import BatchedVectorEnv
from sb3_moe_envs.vector.infos import stack_final

# The equations divide by these: at 0, observations would be NaN.
_DIVISORS = ("length", "l", "m")


class GoalCartPole(CartPoleEnv):
    """A CartPole to be balanced at a place: the reward is 1 there, and half of it 0.5 m away."""

    #: the place, in [-2.4, 2.4]
    goal: float

    def step(self, action: Any) -> EnvStep:
        """Push the cart."""
        obs, _, *ends, info = super().step(action)  # type: ignore[no-untyped-call]  # Gymnasium's
        distance = (float(obs[0]) - self.goal) / 0.5
        reward = 1 / (1 + distance**2)
        return obs, reward, *ends, info


class GoalPendulum(PendulumEnv):
    """A Pendulum to be held at an angle."""

    #: the angle, counted from upright
    goal: float

    def step(self, action: Any) -> EnvStep:
        """Turn the pendulum."""
        angles = self.state[0] - np.array([0, self.goal])
        from_upright, from_goal = (angles + np.pi) % (2 * np.pi) - np.pi
        obs, reward, *ends, info = super().step(action)  # type: ignore[no-untyped-call]  # Gymnasium's
        return obs, float(reward + from_upright**2 - from_goal**2), *ends, info


def cartpole(render_mode: str | None = None, goal: float | None = None, **physics: float) -> Env:
    """Build a CartPole with other physics, or a goal.

    :param goal: where it is to be balanced; None: anywhere
    :param physics: `gravity`, `masscart`, `masspole`, `length` (half the pole's) or `force_mag`
    :raises ValueError: if a quantity is unknown or not finite, or `length` or the sum of the two
        masses isn't positive
    """
    env: Any = (CartPoleEnv if goal is None else GoalCartPole)(render_mode=render_mode)
    _change(env, goal, physics, ("gravity", "masscart", "masspole", "length", "force_mag"))
    # CartPoleEnv derives these two once, from the values it starts with.
    env.total_mass = positive("masscart + masspole", env.masspole + env.masscart)
    env.polemass_length = env.masspole * env.length
    return env


def pendulum(render_mode: str | None = None, goal: float | None = None, **physics: float) -> Env:
    """Build a Pendulum with other physics, or another goal.

    :param goal: at which angle it is to be held, counted from upright; None: upright
    :param physics: `g` (gravity), `m` (mass) or `l` (length)
    :raises ValueError: if a quantity is unknown or not finite, or `m` or `l` isn't positive
    """
    env: Any = (PendulumEnv if goal is None else GoalPendulum)(render_mode=render_mode)
    _change(env, goal, physics, ("g", "m", "l"))
    return env


def mujoco(env_id: str, gravity: float = 1.0, **kwargs: Any) -> Env:
    """Build a MuJoCo environment with another gravity.

    :param env_id: a Gymnasium id, such as `"Hopper-v5"`
    :param gravity: in multiples of the usual one
    :raises ValueError: if gravity isn't positive
    """
    gravity = positive("gravity", gravity)
    require_extra("a MuJoCo environment", "mujoco")
    env: Any = gym.make(env_id, disable_env_checker=True, **kwargs).unwrapped
    env.model.opt.gravity[:] *= gravity
    return env


def _change(
    env: Any, goal: float | None, physics: dict[str, float], allowed: tuple[str, ...]
) -> None:
    if goal is not None:
        env.goal = finite("goal", goal)
    for name, value in physics.items():
        if name not in allowed:
            raise ValueError(f"the physics must be among {list(allowed)}, got {name!r}")
        number = positive if name in _DIVISORS else finite
        setattr(env, name, number(name, value))


#: the number of steps after which `CartPole-v1` is truncated
MAX_STEPS = 500


class CartPoleVectorEnv(BatchedVectorEnv):
    """Environments of `CartPole-v1` with SAME_STEP autoreset, each with its own random stream.

    With seed ``s``, environment ``i`` does the same as a single `CartPole-v1` with seed ``s + i``.

    :param num_envs: how many, at least 1
    :param render_mode: None or ``"rgb_array"``
    :raises ValueError: if an argument is out of range
    """

    def __init__(self, num_envs: int = 1, *, render_mode: str | None = None) -> None:
        super().__init__(num_envs, render_mode, CartPoleEnv.metadata["render_fps"])
        # Only its constants and spaces are used.
        self._pole = CartPoleEnv()
        self._set_spaces(self._pole.observation_space, self._pole.action_space)
        self._random = [seeding.np_random()[0] for _ in range(self.num_envs)]
        self._states = np.zeros((4, self.num_envs))
        self._steps = np.zeros(self.num_envs, np.int64)

    def reset(self, *, seed: Seed = None, options: Options = None) -> ResetResult:
        """Start an episode in every environment.

        :param seed: seeds environment i with ``seed + i``; a sequence gives each its own
        """
        for i, own in enumerate(seed_of_each(seed, self.num_envs)):
            if own is not None:
                self._random[i] = seeding.np_random(own)[0]
            self._start(i)
        return self._observe(), {}

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._require_reset()
        self._actions = self._choices(actions)

    def step_wait(self) -> StepResult:
        """Step every environment with its action."""
        self._states = self._moved()
        self._steps += 1
        x, _, theta, _ = np.abs(self._states)
        terminated = (x > self._pole.x_threshold) | (theta > self._pole.theta_threshold_radians)
        truncated = self._steps >= MAX_STEPS
        ended = np.flatnonzero(terminated | truncated).tolist()
        infos: Info = {}
        if ended:
            last = self._observe()
            infos = stack_final({i: (last[i], {}) for i in ended}, self.num_envs)
            for i in ended:
                self._start(i)
        return self._observe(), np.ones(self.num_envs), terminated, truncated, infos

    @staticmethod
    def draw(observation: np.ndarray) -> np.ndarray:
        """Return Gymnasium's image of one observation."""
        pole: Any = CartPoleEnv(render_mode="rgb_array")
        pole.state = observation
        return pole.render()

    def state_dict(self) -> State:
        """Return everything that the next steps depend on, as numpy arrays and plain values."""
        return {
            "states": self._states.copy(),
            "steps": self._steps.copy(),
            "random": [random.bit_generator.state for random in self._random],
        }

    def load_state_dict(self, state: State) -> None:
        """Go on from a state that :meth:`state_dict` returned.

        :param state: a state of the same number of environments
        """
        self._states = state["states"].copy()
        self._steps = state["steps"].copy()
        for random, saved in zip(self._random, state["random"], strict=True):
            random.bit_generator.state = saved
        self._observe()

    def _observe(self) -> np.ndarray:
        self._observations = self._states.T.astype(np.float32)
        return self._observations

    def _start(self, i: int) -> None:
        self._states[:, i] = self._random[i].uniform(-0.05, 0.05, 4)
        self._steps[i] = 0

    def _moved(self) -> np.ndarray:
        """Return the states after one step, by Gymnasium's equations and Euler's method."""
        pole = self._pole
        (_, speed, theta, turn) = self._states
        force = np.where(self._actions == 1, pole.force_mag, -pole.force_mag)
        cos = np.cos(theta)
        sin = np.sin(theta)
        pushed = (force + pole.polemass_length * np.square(turn) * sin) / pole.total_mass
        inertia = pole.length * (4.0 / 3.0 - pole.masspole * np.square(cos) / pole.total_mass)
        spin = (pole.gravity * sin - cos * pushed) / inertia
        push = pushed - pole.polemass_length * spin * cos / pole.total_mass
        return self._states + pole.tau * np.stack((speed, push, turn, spin))
