"""Small models of any algorithm that callbacks are tried on."""

from typing import Any

from stable_baselines3 import A2C, PPO
from stable_baselines3.common.logger import Logger
from toy import toy_vec_env

#: Ten or twenty episodes of the first task, and then the second.
SHORT = ((0,) * 10 + (1,) * 200,) * 2
LONG = ((0,) * 20 + (1,) * 200,) * 2


class Kept(Logger):
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(None, [])

    def dump(self, step: int = 0) -> None:
        """Write nothing, and forget nothing."""


def learner(
    algo: Any = PPO,
    env: Any = None,
    policy: Any = "MoeMultiInputPolicy",
    n_steps: int = 32,
    **kwargs: Any,
) -> Any:
    """Build a model with a log that keeps what it is told.

    :param env: None: toys that play two tasks in turn
    :param n_steps: of a rollout, for algorithms that have some
    """
    options: dict[str, Any] = {"learning_starts": 20, "buffer_size": 300}
    if algo is PPO:
        options = {"n_steps": n_steps, "batch_size": n_steps, "n_epochs": 1}
    elif algo is A2C:
        options = {"n_steps": 16}
    env = toy_vec_env(*LONG) if env is None else env
    model = algo(policy, env, **(options | {"device": "cpu", "seed": 3} | kwargs))
    if "tensorboard_log" not in kwargs:
        model.set_logger(Kept())
    return model
