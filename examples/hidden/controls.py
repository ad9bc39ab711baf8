"""A features extractor that also predicts the environment: a control for `compare.py`.

Shapes: B batch, K rows of a history, W numbers in a row, D of them an observation, A an action.
"""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_moe.layers.aux_loss import add_loss


class PredictingExtractor(BaseFeaturesExtractor):
    """Encode an observation and its history, and learn to predict the next observation from them.

    The newest step in the history is predicted from the encoding of what was known before it. The
    loss, the squared error in units of the batch's standard deviation, is added to the algorithm's.

    :param observation_space: a Dict of a flat `obs` and its `history`
    :param width: of the encoding, which is the features
    :param coef: weight of the loss
    """

    def __init__(self, observation_space: spaces.Dict, width: int, coef: float = 1.0) -> None:
        super().__init__(observation_space, width)
        self.obs_dim = spaces.flatdim(observation_space["obs"])
        rows, row_width = observation_space["history"].shape
        self.actions = slice(self.obs_dim, row_width - 2)
        self.encode = nn.Sequential(nn.Linear(self.obs_dim + rows * row_width, width), nn.Tanh())
        action_dim = row_width - 2 - self.obs_dim
        self.predict = nn.Linear(width + action_dim, self.obs_dim)
        self.coef = coef

    def forward(self, observations: dict[str, th.Tensor]) -> th.Tensor:
        """Return the features; the loss is attached to them while the network learns."""
        history_BKW = observations["history"]
        features = self.encode(th.cat([observations["obs"], history_BKW.flatten(1)], dim=1))
        if not (self.training and th.is_grad_enabled()):
            return features
        return add_loss(features, self.coef * self._loss(history_BKW))

    def _loss(self, history_BKW: th.Tensor) -> th.Tensor:
        # At the first step of an episode there is nothing before the newest row.
        has_step_B = history_BKW[:, -2, -1] > 0
        rows = history_BKW[has_step_B]
        if not len(rows):
            return history_BKW.new_zeros(())
        earlier = th.cat([th.zeros_like(rows[:, :1]), rows[:, :-1]], dim=1)
        before, after = rows[:, -2, : self.obs_dim], rows[:, -1, : self.obs_dim]
        code = self.encode(th.cat([before, earlier.flatten(1)], dim=1))
        change = self.predict(th.cat([code, rows[:, -1, self.actions]], dim=1))
        error = (change - (after - before)) / (after - before).std(0).clamp_min(1e-3)
        return error.square().mean()
