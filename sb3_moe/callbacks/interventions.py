"""Plasticity interventions that act periodically, and penalties that pull weights to values.

The interventions and some penalties counter the loss of plasticity, the others forgetting.
"""

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch as th
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sb3_moe.callbacks.periodic import (
    CheckedCallback,
    CurrentTask,
    PeriodicCallback,
    refuse_trpo,
    remembered,
    same_training,
)
from sb3_moe.layers.checks import not_negative, one_of, whole
from sb3_moe.layers.temperatures import temperatures_in
from sb3_moe.measures.plasticity import CriticGradients, fisher_information, gradient_activity
from sb3_moe.measures.resets import (
    check_shrink_and_perturb,
    kept_entries,
    redo,
    reset_heads,
    resettable_layers,
    shrink_and_perturb,
)
from sb3_moe.policies.masks import keeps_masks, masks_in
from sb3_moe.policies.networks import networks_of, uncompiled
from sb3_moe.policies.optimizers import ExpertAdam
from sb3_moe.saving.snapshot import preserved_generators
from sb3_moe.vec_env.kept_rows import RecentRows
from sb3_moe.vec_env.observations import Obs, select, stored_obs
from sb3_moe.vec_env.tasks import LAYER, tasks_stepped

Criterion = Literal["activation", "gradient"]


class InterventionCallback(PeriodicCallback):
    """Change the policy at the start of a rollout, every so many global steps.

    It acts neither before training nor at its end: an intervention that falls due in the last
    rollout of one ``learn`` is made at the start of the next ``learn`` that continues the run with
    a callback of the same class. For this, ``model.interventions_done`` holds the step up to which
    each class has made all that were due; files of the model hold it too. Put it before a
    :class:`~sb3_moe.callbacks.SnapshotCallback` in the list.
    """

    def _resume(self, step: int) -> int | None:
        self._asked = remembered(self.model, "interventions_done")
        return min(self._asked.get(type(self).__name__, step), step)

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        step = self.model.num_timesteps
        if not self._is_due(step):
            self._asked[type(self).__name__] = step

    def _on_training_end(self) -> None:
        """Leave the trained policy as it is."""

    def act(self, step: int) -> None:
        """Change the policy; if that is not possible yet, try again at the next rollout."""
        if self.intervene() is False:
            self._last = self._asked.get(type(self).__name__, 0)

    @abstractmethod
    def intervene(self) -> bool | None:
        """Change the model's policy.

        :return: False if what it needs, such as observations, is not there yet
        """


class ReDoCallback(InterventionCallback):
    """Reinitialize dormant neurons (ReDo; Sokar et al. 2023, arXiv 2302.12902).

    Activations are measured on observations of the last rollout, or of the replay buffer. How many
    neurons of each layer were reinitialized is logged under ``plasticity/redo/``.

    :param every: global steps between interventions
    :param tau: units whose score is at most this are dormant
    :param batch_size: how many observations activations are measured on
    :param criterion: what a neuron's score is made from: its ``"activation"``, or the
        ``"gradient"`` that reached it in the last update (ReGraMa; Liu et al. 2025, arXiv
        2505.24061). The gradient of a penalty on weights counts too, and reaches every neuron
    :param verbose: 0 or 1
    :raises TypeError: if ``batch_size`` is no int
    :raises ValueError: if a number is out of range or the criterion is unknown; before training, if
        the policy has no layer that ReDo can change, or the algorithm is TRPO and the criterion
        ``"gradient"``, since TRPO's actor keeps no gradients
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
        """Raise ValueError unless the policy has a layer whose neurons can be reinitialized."""
        if self.criterion == "gradient":
            refuse_trpo(model, "ReDoCallback(criterion='gradient')")
        resettable_layers(model.policy)

    def _on_training_start(self) -> None:
        super()._on_training_start()
        if self.criterion == "gradient":
            self._gradients.attach(self.model.policy)

    def _on_training_end(self) -> None:
        self._gradients.detach()

    def intervene(self) -> bool:
        """Reinitialize dormant neurons."""
        activity = None
        if self.criterion == "gradient":
            gradients = self._gradients.of_last_step
            activity = gradient_activity(self.model.policy, gradients)
            # Before the first update of this `learn` the critic, or every network, lacks gradients.
            if not activity or (gradients and all(each is None for each in gradients.values())):
                return False
        obs = self._replayed() if isinstance(self.model, OffPolicyAlgorithm) else self._obs
        if obs is None:
            return False
        counts = redo(self.model.policy, obs, self.tau, activity)
        self.log_scalars({"plasticity/redo/{}": counts}, LAYER)
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
        # A HerReplayBuffer samples only from episodes that have ended.
        rows = buffer.ep_length.any() if isinstance(buffer, HerReplayBuffer) else buffer.size()
        if not rows:
            return None
        with preserved_generators():
            sample = buffer.sample(self.batch_size, env=self.model.get_vec_normalize_env())
        return stored_obs(sample.observations, self.model.observation_space)


class ResetHeadsCallback(InterventionCallback):
    """Draw the last layer of every network anew (Nikishin et al. 2022, arXiv 2205.07802).

    :param every: global steps between interventions
    :param verbose: 0 or 1
    :raises ValueError: if ``every`` is below 1
    """

    def intervene(self) -> None:
        """Reset the heads."""
        reset_heads(self.model.policy)


class ShrinkAndPerturbCallback(InterventionCallback):
    """Shrink every weight and add part of a newly drawn one (Ash and Adams 2020, arXiv 1910.08475).

    :param every: global steps between interventions
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

    def intervene(self) -> None:
        """Shrink and perturb."""
        shrink_and_perturb(self.model.policy, self.shrink, self.perturb)


# Penalties. `Arrays` holds an array for each parameter, by the parameter's name.
Arrays = dict[str, np.ndarray]
_OBS = "obs/"


# The value that a weight is pulled to (its anchor), and how strongly.
Pull = tuple[Tensor | float, Tensor | float]


class WeightPenaltyCallback(CheckedCallback):
    """Add a penalty on the distance of weights from the values that they are pulled to.

    The penalty is ``coef / 2`` times the squared distance. In every update hooks add its gradient
    to that of the algorithm's loss, before ``max_grad_norm`` clips the sum, as if it were a part of
    the loss. They add nothing for weights that stay as they are (those of frozen experts, of idle
    experts under ``freeze_idle``, and masked ones of a sparse network), neither to the weights nor
    to the norm that is clipped.

    :cvar key: the penalty's name in log keys and in ``model.anchors``
    :cvar area: the first word of the log key
    :param coef: coefficient of the penalty, at least 0
    :param verbose: 0 or 1
    :raises TypeError: if ``coef`` is no number
    :raises ValueError: if ``coef`` is out of range, or the algorithm is TRPO
    """

    key: ClassVar[str]
    area: ClassVar[str] = "plasticity"

    def __init__(self, coef: float, *, verbose: int = 0) -> None:
        super().__init__(verbose)
        not_negative("coef", coef)
        self.coef = coef
        self._handles: list[RemovableHandle] = []

    @abstractmethod
    def pull(self, name: str, parameter: nn.Parameter) -> Pull | None:
        """Return the value that a parameter is pulled to, and how strongly; None: not at all."""

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError for TRPO, and TypeError for a policy of an unknown family."""
        refuse_trpo(model, type(self).__name__)
        networks_of(model.policy)

    @property
    def policy(self) -> Any:
        """The policy, without what ``torch.compile`` wraps around it."""
        return uncompiled(self.model.policy)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that learn, or that a frozen router holds for now, by name.

        Those of target networks, and temperatures, are left out.
        """
        weights = networks_of(self.policy).owners().keys() - temperatures_in(self.policy)
        return {
            name: each
            for name, each in self.policy.named_parameters()
            if each in weights and (each.requires_grad or vars(each).get("is_held"))
        }

    def copies(self) -> Arrays:
        """Return copies of all weights, by name."""
        return {n: each.detach().cpu().numpy().copy() for n, each in self.parameters().items()}

    def _on_training_start(self) -> None:
        self._pulls: dict[nn.Parameter, Pull | None] = {}
        self._lasts = same_training(self.model)

    def _on_rollout_start(self) -> None:
        self._detach()

    def _on_rollout_end(self) -> None:
        """Add the hooks just before the updates, so that no other backward pass runs them."""
        every = dict.fromkeys(self.policy.parameters())
        if every.keys() != self._pulls.keys():  # also after experts joined or left
            found = {each: self.pull(name, each) for name, each in self.parameters().items()}
            self._pulls = every | found
        masks, experts = _held_still(self.policy)
        # Parameters that don't require a gradient stay as they are, and can have no such hook.
        pulls = [(each, pull) for each, pull in self._pulls.items() if pull and each.requires_grad]
        for each, pull in pulls:
            hook = partial(self._add, pull, masks.get(each), experts.get(each))
            self._handles.append(each.register_post_accumulate_grad_hook(hook))
        # An off-policy rollout may be one step long, and to log in each would wait for the device:
        # log only when an episode ends.
        on_policy = isinstance(self.model, OnPolicyAlgorithm)
        if pulls and (on_policy or np.any(self.locals.get("dones"))):
            halves = [
                0.5 * (masks.get(each, 1) * strength * (each.detach() - anchor).square()).sum()
                for each, (anchor, strength) in pulls
            ]
            penalty = self.coef * float(th.stack(halves).sum())
            self.logger.record(f"{self.area}/penalty/{self.key}", penalty)

    def _add(
        self, pull: Pull, mask: Tensor | None, num_experts: int | None, parameter: Any
    ) -> None:
        """Add the gradient of the penalty on a parameter to that of the loss."""
        if not self._lasts():
            return
        gradient = parameter.grad
        anchor, strength = pull
        offset = strength * (parameter.detach() - anchor)
        if mask is not None:
            offset = offset * mask
        if num_experts is not None:
            moves = (gradient.reshape(num_experts, -1) != 0).any(1, keepdim=True)
            offset = (offset.reshape(num_experts, -1) * moves).view_as(gradient)
        gradient.add_(offset, alpha=self.coef)

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _on_training_end(self) -> None:
        self._detach()


def _held_still(policy: Any) -> tuple[dict[Tensor, Tensor], dict[Tensor, int]]:
    """Return which entries of parameters penalties must not move.

    :return: masks by parameter, False where an entry stays as it is; and the number of experts in
        each parameter whose experts stay as they are while they are idle
    """
    masks: dict[Tensor, Tensor] = {}
    experts: dict[Tensor, int] = {}
    for optimizer in networks_of(policy).every_optimizer():
        if keeps_masks(optimizer):
            masks |= masks_in(optimizer)
        if isinstance(optimizer, ExpertAdam):
            experts |= optimizer.frozen_while_idle()
    for tensor, kept in kept_entries(policy).items():
        masks[tensor] = ~kept & masks.get(tensor, True)
    return masks, experts


def _like(parameter: nn.Parameter, *arrays: Any) -> Any:
    """Return arrays as tensors; None if a shape is not the parameter's, since experts may join."""
    if any(each is None or np.shape(each) != parameter.shape for each in arrays):
        return None
    return tuple(th.as_tensor(each).to(parameter) for each in arrays)


class L2InitCallback(WeightPenaltyCallback):
    """Pull weights towards their initial values (Kumar et al. 2023, arXiv 2308.11958).

    The coefficient of the paper is half of ``coef``. Initial values are those that weights have
    when the first training with this callback begins; every file of the model keeps them, as
    ``model.initial_weights``, and a run that starts at step 0 takes them anew. Experts keep their
    initial values when others join or leave. The initial values of an expert that joins are those
    with which it joins or, if it is a copy, those of the original.

    :param coef: of the penalty, ``coef / 2`` times the squared distance; at least 0
    :param verbose: 0 or 1
    :raises TypeError: if ``coef`` is no number
    :raises ValueError: if ``coef`` is out of range, or the algorithm is TRPO
    """

    key = "l2_init"

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        # Not when training starts: then other callbacks may still change weights.
        if not remembered(self.model, "initial_weights"):
            vars(self.model)["initial_weights"] = self.copies()

    def pull(self, name: str, parameter: nn.Parameter) -> Pull | None:
        """Return a parameter's initial value, if it is known."""
        # Read the attribute each time: it is replaced when experts join or leave.
        start = _like(parameter, vars(self.model)["initial_weights"].get(name))
        return None if start is None else (*start, 1.0)


class WeightNormDecayCallback(WeightPenaltyCallback):
    """Pull weights towards zero: a penalty on their norm, in the loss.

    Unlike AdamW's ``weight_decay`` its gradient goes through the optimizer's running averages.

    :param coef: of the penalty, ``coef / 2`` times the squared norm; at least 0
    :param verbose: 0 or 1
    :raises TypeError: if ``coef`` is no number
    :raises ValueError: if ``coef`` is out of range, or the algorithm is TRPO
    """

    key = "weight_norm"

    def pull(self, name: str, parameter: nn.Parameter) -> Pull:
        """Return zero, with the same strength for every parameter."""
        return 0.0, 1.0


class AnchorCallback(WeightPenaltyCallback):
    """Pull weights back to the values that they had when the last task ended.

    Nothing happens in the first task, nor where tasks are interleaved. What a resumed run needs is
    kept in ``model.anchors``, which SB3 saves; a run that starts at step 0 forgets it.

    :param coef: coefficient of the penalty, at least 0
    :param verbose: 1 prints the end of each task
    :raises ValueError: if ``coef`` is out of range, or the environment has no tasks
    """

    area = "continual"

    @abstractmethod
    def strengths(self, task: str, before: Arrays) -> Arrays:
        """Return how strongly each weight is pulled back from now on, by the parameter's name.

        :param task: the name of the task that has just ended
        :param before: what this returned for the task before; empty at first
        """

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check that there are tasks."""
        super().init_callback(model)
        self._task = CurrentTask(self.training_env)

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self.kept = remembered(self.model, "anchors", self.key)
        for name in ("weights", "strengths", "rows"):
            self.kept.setdefault(name, {})

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        if (ended := self._task.ended(self.kept)) is not None:
            self._end(ended)

    def _end(self, task: str) -> None:
        self.say(f"Task {task} ended at {self.model.num_timesteps} steps")
        self.kept["strengths"] = self.strengths(task, self.kept["strengths"])
        self.kept["weights"] = self.copies()
        self._pulls = {}

    def pull(self, name: str, parameter: nn.Parameter) -> Pull | None:
        """Return a parameter's value at the last task's end, and how strongly it is pulled."""
        return _like(parameter, *(self.kept[k].get(name) for k in ("weights", "strengths")))


class L2AnchorCallback(AnchorCallback):
    """Pull all weights equally back to the values that they had when the last task ended.

    The penalty is ``coef / 2`` times the squared distance: the plain L2 baseline of Kirkpatrick et
    al. 2017 (arXiv 1612.00796), which also pulls towards a single task's weights.

    :param coef: coefficient of the penalty, at least 0
    :param verbose: 1 prints the end of each task
    :raises ValueError: if ``coef`` is out of range
    """

    key = "l2"

    def strengths(self, task: str, before: Arrays) -> Arrays:
        """Return 1 for every weight."""
        return {n: np.ones(each.shape, np.float32) for n, each in self.parameters().items()}


class EWCCallback(AnchorCallback):
    """Pull back the weights that finished tasks depend on (EWC, arXiv 1612.00796).

    The penalty is ``coef / 2`` times the sum of F (weight - weight at the last task's end)^2. F is
    the diagonal of the Fisher information. It is the mean, over the finished task's last rows, of
    the squared gradients of the log-probability of the action taken, where an algorithm has one,
    and of each critic's value of this action (DQN's network, SAC's critics). PPO's value network
    doesn't value actions, so it is not pulled. F is summed over tasks, but the only anchor is the
    weights at the last task's end, as in online EWC (arXiv 1805.06370, section 3.1, with ``decay``
    for its gamma) and in Continual World (arXiv 2105.10919): a task that comes back counts again.

    :param coef: coefficient of the penalty, at least 0
    :param rows: how many observations and actions of the finished task F is computed from, at most
    :param decay: factor by which F shrinks before a task's own is added to it, in [0, 1]
    :param verbose: 1 prints the end of each task
    :raises ValueError: if a number is out of range
    """

    key = "ewc"

    def __init__(
        self, coef: float, *, rows: int = 256, decay: float = 1.0, verbose: int = 0
    ) -> None:
        super().__init__(coef, verbose=verbose)
        whole("rows", rows)
        if not 0 <= decay <= 1:
            raise ValueError(f"`decay` must be in [0, 1], got {decay}")
        self.rows = rows
        self.decay = decay

    def _on_step(self) -> bool:
        obs = self.model._last_obs  # of this step: SB3 replaces it after callbacks
        # Off-policy algorithms scale the actions of an actor before they store them.
        actions = self.locals.get("buffer_actions", self.locals["actions"])
        tasks_n = np.array(tasks_stepped(self.locals["infos"], self._task.names), np.int64)
        named = obs if isinstance(obs, Mapping) else {"": obs}
        columns = {f"{_OBS}{name}": np.asarray(column) for name, column in named.items()}
        columns["actions"] = actions
        if (masks := self.locals.get("action_masks")) is not None:
            columns["masks"] = masks.reshape(len(actions), -1)
        step = self.num_timesteps // self.training_env.num_envs
        # Keep rows by task. That a task is over is noticed only at the next rollout's start, when
        # the next task may have rows already.
        for task in np.unique(tasks_n).tolist():
            mine: Any = select(columns, tasks_n == task)
            self._recent(self._task.names[task]).add(step, mine)
        return True

    def _recent(self, task: str) -> RecentRows:
        return RecentRows(self.rows, self.kept["rows"].setdefault(task, {}))

    def _end(self, task: str) -> None:
        super()._end(task)
        rows = self.kept["rows"]
        now = self.kept["task"]
        self.kept["rows"] = {now: rows[now]} if now in rows else {}

    def strengths(self, task: str, before: Arrays) -> Arrays:
        """Return the Fisher information of all tasks so far."""
        columns = self._recent(task).latest()
        actions = columns.pop("actions")
        masks = columns.pop("masks", None)
        obs: Any = {name.removeprefix(_OBS): column for name, column in columns.items()}
        obs = obs.get("", obs)
        found = fisher_information(self.model.policy, obs, actions, self.parameters(), masks)
        return {name: each + self.decay * before.get(name, 0.0) for name, each in found.items()}
