"""Plasticity interventions every so many steps: baselines to compare with."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, get_args

import numpy as np
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_moe.callbacks.periodic import PeriodicCallback, refuse_trpo, remembered
from sb3_moe.layers.checks import not_negative, one_of, whole
from sb3_moe.measures.gradients import CriticGradients, gradient_activity
from sb3_moe.measures.redo import redo, treatable_layers
from sb3_moe.measures.resets import check_shrink_and_perturb, reset_heads, shrink_and_perturb
from sb3_moe.saving.generators import preserved_generators
from sb3_moe.vec_env.observations import Obs, stored_obs
from sb3_moe.vec_env.tasks import LAYER, short_names

Criterion = Literal["activation", "gradient"]


class InterventionCallback(PeriodicCallback):
    """Treat the policy at the start of a rollout, every so many global steps.

    Not before training and not at its end: what falls due in the last rollout of one ``learn`` is
    done at the start of the next that goes on with the same class of callback. ``model.remedies``
    keeps up to which step each was asked, in files too. Put it before a
    :class:`~sb3_moe.callbacks.SnapshotCallback` in the list.
    """

    def _resume(self, step: int) -> int | None:
        self._asked: dict[str, int] = remembered(self.model, "remedies")
        return min(self._asked.get(type(self).__name__, step), step)

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        step = self.model.num_timesteps
        if not self._is_due(step):
            self._asked[type(self).__name__] = step

    def _on_training_end(self) -> None:
        """Leave the trained policy as it is."""

    def act(self, step: int) -> bool:
        """Change the policy; what can't be done yet is due again at the next rollout."""
        if self.treat() is False:
            self._last = self._asked.get(type(self).__name__, 0)
        return True

    @abstractmethod
    def treat(self) -> bool | None:
        """Change the model's policy.

        :return: False if there is nothing yet by which to do it
        """


class ReDoCallback(InterventionCallback):
    """Give dormant neurons a new start (Sokar et al. 2023, arXiv 2302.12902).

    It judges by observations of the last rollout, or of the replay buffer, and logs how many
    neurons started anew in each layer under ``plasticity/redo/``.

    :param every: global steps between treatments
    :param tau: units whose score is at most this are dormant
    :param batch_size: observations to judge activations by
    :param criterion: ``"activation"``, or ``"gradient"``: the gradient that reached a neuron in the
        last update (ReGraMa; Liu et al. 2025, arXiv 2505.24061)
    :param verbose: 0 or 1
    :raises TypeError: if ``batch_size`` is no int
    :raises ValueError: if a number is out of range, the criterion is none, or, before training, if
        the policy has no layer that can be treated, or TRPO is to be judged by gradients, which its
        actor's weights don't keep
    """

    def __init__(
        self,
        every: int,
        tau: float = 0.1,
        *,
        batch_size: int = 256,
        criterion: Criterion = "activation",
        verbose: int = 0,
    ) -> None:
        super().__init__(every, verbose=verbose)
        not_negative("tau", tau)
        one_of("criterion", criterion, get_args(Criterion))
        whole("batch_size", batch_size)
        self.tau = tau
        self.batch_size = batch_size
        self.criterion = criterion
        self._gradients = CriticGradients()
        self._obs: Obs | None = None

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless the algorithm has networks with a layer to treat."""
        if self.criterion == "gradient":
            refuse_trpo(model, "ReDoCallback(criterion='gradient')")
        treatable_layers(model.policy)

    def _on_training_start(self) -> None:
        super()._on_training_start()
        if self.criterion == "gradient":
            self._gradients.attach(self.model.policy)

    def _on_training_end(self) -> None:
        self._gradients.detach()

    def treat(self) -> bool:
        """Restart dormant neurons."""
        activity = None
        if self.criterion == "gradient":
            gradients = self._gradients.of_last_step()
            activity = gradient_activity(self.model.policy, gradients)
            # Before the first update of this `learn` nothing is known of the critic, or at all.
            if not activity or (gradients and all(each is None for each in gradients.values())):
                return False
        obs = self._replayed() if isinstance(self.model, OffPolicyAlgorithm) else self._obs
        if obs is None:
            return False
        counts = redo(self.model.policy, obs, self.tau, activity)
        by_layer = dict(zip(short_names(list(counts), LAYER), counts.values(), strict=True))
        self.log_scalars({"plasticity/redo/{}": by_layer})
        return True

    def _on_rollout_end(self) -> None:
        # SB3 empties the buffer before it announces the next rollout.
        if isinstance(self.model, OnPolicyAlgorithm):
            buffer = self.model.rollout_buffer
            size = buffer.buffer_size * buffer.n_envs
            rng = np.random.default_rng(self.num_timesteps)
            rows = rng.choice(size, min(self.batch_size, size), replace=False)
            steps, envs = np.divmod(rows, buffer.n_envs)
            space = self.model.observation_space
            self._obs = stored_obs(buffer.observations, space, (steps, envs))

    def _replayed(self) -> Obs | None:
        buffer: Any = self.model.replay_buffer  # type: ignore[attr-defined]
        # Hindsight needs an episode that has ended.
        rows = buffer.ep_length.any() if isinstance(buffer, HerReplayBuffer) else buffer.size()
        if not rows:
            return None
        with preserved_generators():
            sample = buffer.sample(self.batch_size, env=self.model.get_vec_normalize_env())
        return stored_obs(sample.observations, self.model.observation_space)


class ResetHeadsCallback(InterventionCallback):
    """Draw the last layer of every network anew (Nikishin et al. 2022, arXiv 2205.07802).

    :param every: global steps between treatments
    :param verbose: 0 or 1
    :raises ValueError: if ``every`` is below 1
    """

    def treat(self) -> None:
        """Reset the heads."""
        reset_heads(self.model.policy)


class ShrinkAndPerturbCallback(InterventionCallback):
    """Pull every weight towards a new start (Ash and Adams 2020, arXiv 1910.08475).

    :param every: global steps between two interventions
    :param shrink: factor of the old weights, in [0, 1]
    :param perturb: factor of newly drawn weights, at least 0
    :param verbose: 0 or 1
    :raises ValueError: if a number is out of range
    """

    def __init__(
        self, every: int, shrink: float = 0.8, perturb: float = 0.2, *, verbose: int = 0
    ) -> None:
        super().__init__(every, verbose=verbose)
        check_shrink_and_perturb(shrink, perturb)
        self.shrink = shrink
        self.perturb = perturb

    def treat(self) -> None:
        """Shrink and perturb."""
        shrink_and_perturb(self.model.policy, self.shrink, self.perturb)
