"""Meta-World's tasks, whose objects and goals follow from the seed of a reset."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import EzPickle

from sb3_moe_envs.checks import Options, ResetResult, require_extra

#: the fifty tasks, in the order of MT50; each is Meta-World's "<name>-v3"
TASKS = (
    "assembly", "basketball", "bin-picking", "box-close", "button-press-topdown",
    "button-press-topdown-wall", "button-press", "button-press-wall", "coffee-button",
    "coffee-pull", "coffee-push", "dial-turn", "disassemble", "door-close", "door-lock",
    "door-open", "door-unlock", "hand-insert", "drawer-close", "drawer-open", "faucet-open",
    "faucet-close", "hammer", "handle-press-side", "handle-press", "handle-pull-side",
    "handle-pull", "lever-pull", "pick-place-wall", "pick-out-of-hole", "pick-place",
    "plate-slide", "plate-slide-side", "plate-slide-back", "plate-slide-back-side",
    "peg-insert-side", "peg-unplug-side", "soccer", "stick-push", "stick-pull", "push",
    "push-wall", "push-back", "reach", "reach-wall", "shelf-place", "sweep-into", "sweep",
    "window-open", "window-close",
)  # fmt: skip
MT10 = (
    "reach", "push", "pick-place", "door-open", "drawer-open", "drawer-close",
    "button-press-topdown", "peg-insert-side", "window-open", "window-close",
)  # fmt: skip
# In the order of "Continual World" (arXiv 2105.10919).
CW10 = (
    "hammer", "push-wall", "faucet-close", "push-back", "stick-pull", "handle-press-side", "push",
    "shelf-place", "window-close", "peg-unplug-side",
)  # fmt: skip
# What dense SAC learned soonest of eight likely tasks: examples/metaworld/protocol.md has the rule.
EASY = ("door-close", "reach", "faucet-close")
#: the two reward functions that published results are of; they aren't comparable
REWARDS = ("V1", "V2")


class MetaWorldEnv(gym.Env[np.ndarray, np.ndarray], EzPickle):
    """A task of Meta-World 3 with its goal in the observation, both drawn anew at each reset.

    Meta-World's own environments ignore the seed of a reset, hide the goal until a task is set, and
    play fifty fixed goals; here each episode has its own, from the seed. After 500 steps an episode
    is truncated; reaching the goal (`info["success"]`, the only info) doesn't end it. Observations
    are float32, clipped to their space. Pickled, it is built again and keeps its generators, but
    not the episode: Meta-World's own pickle, read back, has the hand in another place.

    :param task: one of :data:`TASKS`
    :param reward: which of Meta-World's reward functions, `"V1"` or `"V2"`
    :param render_mode: None, `"rgb_array"` or `"human"`; images without a screen need MUJOCO_GL
    :raises ImportError: without the extra `metaworld`
    :raises ValueError: if an argument is unknown
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 80}  # noqa: RUF012

    def __init__(
        self, task: str = "reach", reward: str = "V2", render_mode: str | None = None
    ) -> None:
        for name, value, known in (("task", task, TASKS), ("reward", reward, REWARDS)):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {list(known)}, got {value!r}")
        EzPickle.__init__(self, task, reward, render_mode)
        require_extra("a Meta-World task", "metaworld")
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        self.task, self.reward, self.render_mode = task, reward, render_mode
        self._env = ALL_V3_ENVIRONMENTS[f"{task}-v3"](
            reward_function_version=reward.lower(), render_mode=render_mode
        )
        _draw_goals(self._env)
        # Its `observation_space` stays that of the hidden goal, all zero.
        box = self._env.sawyer_observation_space
        self.observation_space = spaces.Box(
            box.low.astype(np.float32), box.high.astype(np.float32), dtype=np.float32
        )
        self.action_space = self._env.action_space
        self._seeded = False

    def __getstate__(self) -> dict[str, Any]:
        """Say how to build it, and which random numbers come next."""
        built_by = super().__getstate__()  # type: ignore[no-untyped-call]  # Gymnasium's
        return {**built_by, "generators": (self._np_random, self._env.np_random, self._seeded)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build it again, before an episode."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._np_random, self._env.np_random, self._seeded = state["generators"]

    def reset(self, *, seed: int | None = None, options: Options = None) -> ResetResult:
        """Place the objects and draw a goal.

        :param seed: of all goals from here on
        """
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self._env.seed(int(self.np_random.integers(2**31)))
            self._seeded = True
        box: Any = self.observation_space
        # Meta-World clips what steps give, but not what a reset does.
        return np.clip(self._env.reset()[0].astype(np.float32), box.low, box.high), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the hand and the gripper."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        # The rest of its info is parts of the reward, which would cost every step some time.
        said = {"success": float(info["success"])}
        observation = observation.astype(np.float32)
        return observation, float(reward), bool(terminated), bool(truncated), said

    def render(self) -> Any:
        """Return an image, or show it."""
        return self._env.render()

    def close(self) -> None:
        """Close the window, if there is one."""
        self._env.close()


def _draw_goals(env: Any) -> None:
    """Let an environment of Meta-World show its goal and draw it from its own generator.

    This is what its `set_task` does, but for the goal, which that freezes.
    """
    env._partially_observable = False
    # Its space is computed once, and was of the hidden goal.
    del env.sawyer_observation_space
    env._freeze_rand_vec, env.seeded_rand_vec, env._set_task_called = False, True, True
