"""A features extractor that puts a belief about the task in place of the one-hot task id.

Shapes: B batch, E models, K rows of a history, W numbers in a row.
"""

from typing import Any

import gymnasium as gym
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from sb3_moe.layers import Belief
from sb3_moe.layers.checks import one_of
from sb3_moe.policies.extractors import TaskExtractor

HISTORY_KEY = "history"


class BeliefExtractor(TaskExtractor):
    """Infer the task from the last steps of the episode: features are ``[x | belief]``.

    With ``router="predict"`` it is the default; a dense network sees the belief as an input.
    Observations are a Dict of ``"obs"``, a flat Box, and ``"history"``, as
    ``make_multitask_vec_env(..., history=8)`` gives them.

    :param observation_space: such a Dict
    :param shown: who sees the history: the ``"router"`` alone, by way of the belief, or the
        experts too, as a part of x (``"both"``)
    :param belief: a belief of another extractor, which alone teaches its models; None: a new one
    :param num_models: number of models; with ``router="predict"`` it is the number of experts
    :param models: other options of :class:`sb3_moe.layers.Belief`
    :raises TypeError: if a value has the wrong type
    :raises ValueError: if observations are of another kind, or a value is out of range
    """

    #: The belief is a guess: it can't serve where the true task id is needed.
    tells_task = False

    def __init__(
        self,
        observation_space: gym.Space,
        *,
        shown: str = "router",
        belief: Belief | None = None,
        num_models: int = 4,
        encoder: str = "flat",
        raw: bool = False,
        normalized_image: bool = False,
        **models: Any,
    ) -> None:
        one_of("shown", shown, ("router", "both"))
        own, history = _parts_of(observation_space)
        seen: dict[str, spaces.Space] = {"obs": own}
        seen |= {HISTORY_KEY: history} if shown == "both" else {}
        super().__init__(spaces.Dict(seen), encoder=encoder, raw=raw)
        self._observation_space = observation_space
        self.teaches = belief is None
        obs_dim = own.shape[0]
        self.belief = belief or Belief(
            obs_dim, history.shape[1] - obs_dim - 2, num_models, **models
        )
        self.num_tasks = self.belief.num_models
        self._features_dim += self.num_tasks

    def forward(self, observations: PyTorchObs) -> Tensor:
        """Return the features; the models learn while the policy does."""
        assert isinstance(observations, dict)
        history_BKW = observations[HISTORY_KEY]
        if self.teaches and self.training and th.is_grad_enabled():
            self.belief.learn(history_BKW)
        return th.cat([super().forward(observations), self.belief(history_BKW)], 1)

    def follow_belief(self) -> None:
        """Adjust the number of features to the number of models that the belief has now."""
        self._features_dim += self.belief.num_models - self.num_tasks
        self.num_tasks = self.belief.num_models


def _parts_of(space: gym.Space) -> tuple[spaces.Box, spaces.Box]:
    parts: dict[str, Any] = dict(space.spaces) if isinstance(space, spaces.Dict) else {}
    shapes = {key: len(part.shape or ()) for key, part in parts.items()}
    # A history of one step has no transition: the belief would always be the prior.
    if shapes != {"obs": 1, HISTORY_KEY: 2} or parts[HISTORY_KEY].shape[0] < 2:
        raise ValueError(
            "`router`='predict' needs a Dict of a flat 'obs', its 'history' of at least 2 steps "
            "and no `task_id`, as make_multitask_vec_env(..., task_id='info', history=8) gives it, "
            f"got {space}"
        )
    return parts["obs"], parts[HISTORY_KEY]
