"""Notice tasks that no expert's model explains.

Shapes: S steps of a window, n environments, M histories, E experts with a model each.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_moe.growing import add_experts
from sb3_moe.layers.checks import not_negative, whole
from sb3_moe.layers.predict import positive
from sb3_moe.policies.belief import HISTORY_KEY
from sb3_moe.policies.of_model import policy_of

# So many windows say what is usual: the first few, and at most the last few.
FIRST_WINDOWS, LAST_WINDOWS = 5, 20


class NewTaskCallback(BaseCallback):
    """Say when several environments play something that no model of the belief explains.

    Before an update, each environment's last histories are read: the log-likelihood for a
    transition, under the model that explains a history best, has not been trained on them yet. An
    environment is surprised if its mean lies more than ``margin`` below a quantile of what was
    usual in calm windows. When enough of them are surprised for ``patience`` windows in a row, a
    new task is noticed, and no other before as many windows were calm. Logs
    ``moe/log_likelihood``, ``moe/surprised`` (a share of the environments) and ``moe/new_tasks``.
    What is usual is not saved: a run that goes on learns it anew.

    :param window: steps of each environment that are read together, at least
    :param quantile: of what was usual, in (0, 1]
    :param margin: how far below it, in nats for a transition
    :param share: of the environments that must be surprised, in (0, 1]
    :param patience: windows in a row
    :param most: how many new tasks are noticed at most
    :param add_expert: whether each new task gets an expert: a copy of the likeliest one, with a
        model that is first fitted to what surprised
    :param fit_steps: steps of that
    :param verbose: 1 prints each new task
    :raises TypeError: if a number isn't a whole one
    :raises ValueError: if a value is out of range, or the policy has no belief
    """

    def __init__(
        self,
        *,
        window: int = 32,
        quantile: float = 0.05,
        margin: float = 1.0,
        share: float = 0.1,
        patience: int = 2,
        most: int = 8,
        add_expert: bool = False,
        fit_steps: int = 500,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        counts = {"window": window, "patience": patience, "most": most, "fit_steps": fit_steps}
        for name, count in counts.items():
            whole(name, count)
        not_negative("margin", margin)
        positive("quantile", quantile, at_most=1.0)
        positive("share", share, at_most=1.0)
        self.window, self.quantile, self.margin = window, quantile, margin
        self.share, self.patience, self.most = share, patience, most
        self.add_expert, self.fit_steps = add_expert, fit_steps
        self.noticed = 0
        self._usual: deque[np.ndarray] = deque(maxlen=LAST_WINDOWS)
        self._seen: list[np.ndarray] = []
        # Windows in a row that were surprising, or calm again; whether a new task is on already.
        self._in_row, self._alarmed = 0, False

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check that there is a belief."""
        super().init_callback(model)
        self.policy: Any = policy_of(model)
        if self.policy.belief is None:
            raise ValueError("the policy must have a belief, as `router`='predict' gives it")

    def _on_step(self) -> bool:
        self._seen.append(self.locals["new_obs"][HISTORY_KEY])
        return True

    def _on_rollout_end(self) -> None:
        if len(self._seen) < self.window:
            return
        histories = th.as_tensor(np.stack(self._seen), device=self.model.device)
        self._seen = []
        score_Sn, best_Sn = self._explained(histories)
        score_n = score_Sn.nanmean(0)
        surprised_n = self._surprised(score_n)
        self._usual.append(score_n[~surprised_n].cpu().numpy())
        share = float(surprised_n.float().mean())
        if self._starts_alarm(share):
            self.noticed += 1
            if self.verbose:
                print(f"new task {self.noticed} at step {self.num_timesteps}")
            if self.add_expert:
                likeliest = int(best_Sn[:, surprised_n].mode(0).values.mode().values)
                self._add(likeliest, histories[:, surprised_n].flatten(0, 1))
        self.logger.record("moe/log_likelihood", float(score_n.nanmean()))
        self.logger.record("moe/surprised", share)
        self.logger.record("moe/new_tasks", self.noticed)

    def _explained(self, histories: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Return how well the best model explains each history, and which that is, (S, n).

        :param histories: (S, n, K, W); one without a transition is not a number
        """
        with th.no_grad():
            log_ETM, real_TM = self.policy.belief.log_likelihood(histories.flatten(0, 1))
        score_M, best_M = (log_ETM.sum(1) / real_TM.sum(0)).max(0)
        return score_M.view(histories.shape[:2]), best_M.view(histories.shape[:2])

    def _surprised(self, score_n: th.Tensor) -> th.Tensor:
        if len(self._usual) < FIRST_WINDOWS:
            return th.zeros_like(score_n, dtype=th.bool)
        usual = np.nanquantile(np.concatenate(list(self._usual)), self.quantile)
        return score_n < float(usual) - self.margin

    def _starts_alarm(self, share: float) -> bool:
        """Count windows in a row in which an alarm would start, or end; say whether one starts."""
        turns = share < self.share if self._alarmed else share >= self.share
        self._in_row = self._in_row + 1 if turns else 0
        if self._in_row < self.patience:
            return False
        self._alarmed, self._in_row = not self._alarmed, 0
        return self._alarmed and self.noticed < self.most

    def _add(self, likeliest: int, histories: th.Tensor) -> None:
        """Add an expert to every network, whose model explains what surprised."""
        # A twin until it is used: in the update that follows the policy is what it was.
        add_experts(self.model, like=likeliest, perturb=0.0)
        belief = self.policy.belief
        belief.fit(belief.num_models - 1, histories, self.fit_steps)
