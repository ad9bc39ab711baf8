"""Meta-World's tasks, with objects and goals that are drawn from the seed of a reset."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import EzPickle

from sb3_moe_envs.checks import EnvStep, Options, ResetResult, State, require_extra

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
# The three of eight likely tasks that dense SAC learned soonest, by the rule in
# examples/metaworld/protocol.md.
EASY = ("door-close", "reach", "faucet-close")
#: the two reward functions in published results; results of V1 and V2 aren't comparable
REWARDS = ("V1", "V2")


class MetaWorldEnv(gym.Env[np.ndarray, np.ndarray], EzPickle):
    """A task of Meta-World 3 with the goal in the observation; each reset draws objects and goal.

    Meta-World's own environments ignore the seed of a reset, hide the goal until a task is set, and
    play fifty fixed goals; here each episode has its own goal, from the seed. After 500 steps an
    episode is truncated; reaching the goal (`info["success"]`, the only info) doesn't end it.
    Observations are float32, clipped to their space. Unpickling builds the environment again and
    keeps its random generators, but not the running episode: an environment of Meta-World that is
    unpickled has the hand in another place.

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

        self.task = task
        self.render_mode = render_mode
        self._env = ALL_V3_ENVIRONMENTS[f"{task}-v3"](
            reward_function_version=reward.lower(), render_mode=render_mode
        )
        _draw_goals(self._env)
        # Not its `observation_space`, whose bounds for the goal stay zero, as for a hidden goal.
        box = self._env.sawyer_observation_space
        self.observation_space = spaces.Box(
            box.low.astype(np.float32), box.high.astype(np.float32), dtype=np.float32
        )
        self.action_space = self._env.action_space
        self._seeded = False

    def __getstate__(self) -> State:
        """Return the arguments of the constructor, and the random generators."""
        built_by = super().__getstate__()  # type: ignore[no-untyped-call]  # Gymnasium's
        return {**built_by, "generators": (self._np_random, self._env.np_random, self._seeded)}

    def __setstate__(self, state: State) -> None:
        """Build the environment again; it needs a reset before the first step."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._np_random, self._env.np_random, self._seeded = state["generators"]

    def reset(self, *, seed: int | None = None, options: Options = None) -> ResetResult:
        """Place the objects and draw a goal.

        :param seed: seeds all goals from this reset on
        """
        super().reset(seed=seed)
        if seed is not None or not self._seeded:
            self._env.seed(int(self.np_random.integers(2**31)))
            self._seeded = True
        box: Any = self.observation_space
        # Meta-World clips the observations of steps, but not those of resets.
        obs, _ = self._env.reset()
        return np.clip(obs.astype(np.float32), box.low, box.high), {}

    def step(self, action: np.ndarray) -> EnvStep:
        """Move the hand and the gripper."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        # The rest of Meta-World's info is parts of the reward; returning it would slow every step.
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

    Its `set_task` does the same, but keeps one goal for all episodes.
    """
    env._partially_observable = False
    # A cached property, which was computed with the goal hidden.
    del env.sawyer_observation_space
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    env._set_task_called = True
