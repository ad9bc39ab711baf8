"""Prepare a model for the next task when the task changes, and notice tasks that have no id.

Shapes: S steps of a window, n environments, K rows of a history, W numbers in a row, M = S*n
histories, E experts with a model each.
"""

from collections import deque
from typing import Any, Literal, get_args

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.her import HerReplayBuffer
from torch import Tensor

from sb3_moe.callbacks.periodic import CheckedCallback, CurrentTask, remembered
from sb3_moe.growing import add_experts, freeze_experts
from sb3_moe.growing.experts import changeable, check_room
from sb3_moe.layers.checks import not_negative, one_of, whole
from sb3_moe.layers.predict import positive
from sb3_moe.measures.resets import reset_heads, reset_optimizers
from sb3_moe.policies.belief import HISTORY_KEY
from sb3_moe.policies.learning_rates import Restarted
from sb3_moe.policies.of_model import policy_of
from sb3_moe.vec_env.kept_rows import Reservoir
from sb3_moe.vec_env.tasks import task_names

Replay = Literal["keep", "clear", "reservoir"]
OnNewTask = Literal["add_expert", "freeze_old"]


class TaskSwitchCallback(CheckedCallback):
    """Prepare the model for the next task, at the start of the first rollout that plays it.

    It logs ``continual/task`` and ``continual/switches``. Tasks that are interleaved never switch.
    What a resumed run needs is kept in ``model.task_switches``, which SB3 saves. Give ``learn`` at
    most one such callback.

    :param reset_optimizer: forget the optimizers' running averages, also those of frozen experts
        and of SAC's entropy coefficient. Otherwise, for about a rollout, their momentum moves even
        an expert that is no longer used
    :param reset_heads: draw the last layer of every network anew
    :param replay_buffer: ``"keep"`` all transitions, ``"clear"`` the buffer, or keep a
        ``"reservoir"`` and fill the rest of the buffer anew. The reservoir is a sample in which
        every transition of the run so far is equally likely (if a task fills the rest of the buffer
        more than once, its latest transitions stand for all). SB3 counts ``learning_starts`` from
        the run's beginning alone: after ``"clear"`` it goes on updating, with batches drawn from
        the new task's first few transitions
    :param reservoir_share: share of the buffer that the reservoir takes at most, in (0, 0.5]
    :param restart_exploration: DQN's epsilon starts again at its first value, and falls at the same
        pace as at first
    :param restart_learning_rate: the schedule of the learning rate starts again in the same way;
        see :class:`~sb3_moe.callbacks.LinearPerBlock` for one that reaches zero in every block
    :param on_new_task: what to do at a task that the run plays for the first time:
        ``"add_expert"`` adds an expert to every mixture, as :func:`sb3_moe.add_experts` does;
        ``"freeze_old"`` freezes all experts before it adds one; None: nothing
    :param verbose: 1 prints each switch
    :raises ValueError: if an argument is out of range, or does not fit the algorithm
    """

    def __init__(
        self,
        *,
        reset_optimizer: bool = False,
        reset_heads: bool = False,
        replay_buffer: Replay = "keep",
        reservoir_share: float = 0.5,
        restart_exploration: bool = False,
        restart_learning_rate: bool = False,
        on_new_task: OnNewTask | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if on_new_task is not None:
            one_of("on_new_task", on_new_task, get_args(OnNewTask))
        one_of("replay_buffer", replay_buffer, get_args(Replay))
        self.reset_optimizer = reset_optimizer
        self.reset_heads = reset_heads
        self.replay_buffer = replay_buffer
        self.reservoir = Reservoir(reservoir_share)
        self.restart_exploration = restart_exploration
        self.restart_learning_rate = restart_learning_rate
        self.on_new_task = on_new_task

    @property
    def switches(self) -> int:
        """How often tasks have changed in this run."""
        return int(self.kept["switches"])

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check that there are tasks."""
        super().init_callback(model)
        self._task = CurrentTask(self.training_env)

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless the model has all that this callback changes at a switch."""
        if self.replay_buffer != "keep" and not isinstance(model, OffPolicyAlgorithm):
            raise ValueError("`replay_buffer` must be 'keep' for on-policy algorithms")
        buffer = getattr(model, "replay_buffer", None)
        if self.replay_buffer == "reservoir":
            self.reservoir.check(buffer)
        elif self.replay_buffer == "clear" and isinstance(buffer, HerReplayBuffer):
            raise ValueError("`replay_buffer` can't be 'clear' with a HerReplayBuffer")
        if self.on_new_task is not None:
            self._check_experts(model)
        if self.restart_exploration and not hasattr(model, "exploration_schedule"):
            raise ValueError("`restart_exploration` needs an algorithm with an epsilon, as DQN")

    def _check_experts(self, model: BaseAlgorithm) -> None:
        policy = policy_of(model)
        # An expert joins at each task but the first; a resumed run has met some tasks already.
        env = model.get_env()
        names = set() if env is None else {*task_names(env)}
        past = vars(model).get("task_switches", {}) if model.num_timesteps > 0 else {}
        met = names.intersection(past.get("met", ()))
        joins = len(names - met) - (not met)
        try:
            if self.on_new_task == "freeze_old":
                policy.check_frozen_experts({name: [0] for name in policy.moe_layers()})
            if joins > 0:
                check_room(model, joins)
        except ValueError as error:
            raise ValueError(f"`on_new_task` can't be {self.on_new_task!r}: {error}") from error

    def _on_training_start(self) -> None:
        self.kept = remembered(self.model, "task_switches")
        start: dict[str, Any] = {"task": None, "met": [], "switches": 0, "switched_at": None}
        of_reservoir = {"kept": 0, "seen": 0, "reduced_at": 0}
        self.kept |= start | of_reservoir | self.kept
        if self.replay_buffer == "reservoir":
            buffer = getattr(self.model, "replay_buffer", None)
            self.reservoir.resume(buffer, self.kept["kept"], self.kept["seen"])
        self._restart_schedules(self.kept["switched_at"])

    def _on_rollout_start(self) -> None:
        if self.on_new_task is not None:
            changeable(self.model)  # raises if masks were drawn when training started
        if self._task.ended(self.kept) is not None:
            self._switch(self.kept["task"])
        if self.kept["task"] is not None:
            self.kept["met"] = sorted({*self.kept["met"], self.kept["task"]})

    def _on_step(self) -> bool:
        if self.replay_buffer == "reservoir":
            # The model is off-policy: check_model refuses a reservoir for any other.
            self.reservoir.protect(self.model.replay_buffer)  # type: ignore[attr-defined]
        return True

    def _switch(self, task: str) -> None:
        step = self.model.num_timesteps
        policy = self.model.policy
        self.kept["switches"] += 1
        self.say(f"Task {task} begins at {step} steps")
        if self.reset_optimizer:
            reset_optimizers(policy)
            of_entropy = getattr(self.model, "ent_coef_optimizer", None)  # of SAC, TQC, CrossQ
            if of_entropy is not None:
                of_entropy.state.clear()
        is_new = self.on_new_task is not None and task not in self.kept["met"]
        if is_new and self.on_new_task == "freeze_old":
            for mixture in changeable(self.model):
                freeze_experts(self.model, network=mixture)
        if self.reset_heads:  # frozen experts keep their heads
            reset_heads(policy)
        if is_new:
            add_experts(self.model)
        buffer: Any = getattr(self.model, "replay_buffer", None)
        if self.replay_buffer == "clear":
            buffer.reset()
        elif self.replay_buffer == "reservoir":
            written = (step - self.kept["reduced_at"]) // self.model.n_envs
            self.reservoir.reduce(buffer, written, np.random.default_rng(step))
            self.kept |= {"kept": self.reservoir.kept, "seen": self.reservoir.seen}
            self.kept["reduced_at"] = step
        self.kept["switched_at"] = step
        self._restart_schedules(step)
        self.logger.record("continual/task", self._task.names.index(task))
        self.logger.record("continual/switches", self.kept["switches"])

    def _on_training_end(self) -> None:
        """Put the model's own schedules back: restarts depend on the length of this ``learn``."""
        self._restart_schedules(None)

    def _restart_schedules(self, step: int | None) -> None:
        """Let schedules start again at a step; None: put the model's own schedules back."""
        model = self.model
        names = ["exploration_schedule"] if self.restart_exploration else []
        for name in [*names, "lr_schedule"] if self.restart_learning_rate else names:
            schedule = getattr(model, name)
            if isinstance(schedule, Restarted):
                schedule = schedule.schedule
            if step is not None:
                schedule = Restarted(schedule, 1.0 - step / model._total_timesteps)
            setattr(model, name, schedule)


# Scores of this many windows count as usual: the latest ones, because models improve.
CALM_WINDOWS = 5
# Of the usual scores, the quantile that a surprised environment's score lies below.
QUANTILE = 0.05


class NewTaskCallback(CheckedCallback):
    """Notice when several environments play a task that no model of the belief explains.

    Before an update, each environment gets a score: the mean log-likelihood of a transition in its
    latest histories, under the model that explains each history best. The models have not been
    trained on these histories yet. The usual scores are those of environments that were not
    surprised in the last few windows. An environment is surprised if its score lies more than
    ``margin`` below the 5% quantile of the usual scores. When at least ``share`` of the
    environments are surprised in ``patience`` windows in a row, a new task is noticed. Another one
    can be noticed only after as many windows in a row in which fewer were surprised. It logs
    ``moe/log_likelihood``, ``moe/surprised`` (the share of surprised environments) and
    ``moe/new_tasks`` (how many were noticed). ``model.new_tasks`` holds what a resumed run needs.

    :param window: how many steps of each environment are scored together, at least
    :param margin: how far below that quantile a surprised environment's score lies, in nats for a
        transition
    :param share: share of the environments that must be surprised, in (0, 1]
    :param patience: in how many windows in a row they must be surprised
    :param most: how many new tasks are noticed at most
    :param add_expert: whether each new task gets an expert: a copy of the likeliest one, with a
        model that is first fitted to the surprising histories
    :param fit_steps: gradient steps of that fit
    :param verbose: 1 prints each new task
    :raises TypeError: if a number isn't a whole one
    :raises ValueError: if a value is out of range, or the policy has no belief
    """

    def __init__(
        self,
        *,
        window: int = 32,
        margin: float = 1.0,
        share: float = 0.1,
        patience: int = 1,
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
        positive("share", share, at_most=1.0)
        self.window = window
        self.margin = margin
        self.share = share
        self.patience = patience
        self.most = most
        self.add_expert = add_expert
        self.fit_steps = fit_steps
        self.noticed = 0
        self._kept: dict[str, Any] = {}
        self._usual = deque[list[float]](maxlen=CALM_WINDOWS)
        self._seen: list[np.ndarray] = []
        # How many windows in a row were surprising (during an alarm: calm), and whether an alarm
        # is on, which a new task has raised.
        self._in_row = 0
        self._alarmed = False

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless there is a belief, and an expert can join where one may."""
        policy = policy_of(model)
        if policy.belief is None:
            raise ValueError("`model` must have a belief, such as `router`='predict' gives")
        if self.add_expert:
            policy.check_followed()
            check_room(model, 1)

    def _on_rollout_start(self) -> None:
        if self.add_expert:
            changeable(self.model)  # raises if masks were drawn when training started

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._kept = remembered(self.model, "new_tasks")
        kept = self._kept.get("seen", ())
        self._seen = [each for each in kept if len(each) == self.training_env.num_envs]
        self._kept["seen"] = self._seen
        state = self._kept.get("state", [0, 0, False])
        self.noticed, self._in_row, self._alarmed = state
        self._usual = deque(self._kept.get("usual", ()), CALM_WINDOWS)

    def _on_step(self) -> bool:
        self._seen.append(self.locals["new_obs"][HISTORY_KEY])
        return True

    def _on_rollout_end(self) -> None:
        if len(self._seen) < self.window:
            return
        histories = th.as_tensor(np.stack(self._seen), device=self.model.device)
        self._seen.clear()
        score_Sn, best_Sn = self._explained(histories)
        score_n = score_Sn.nanmean(0)
        surprised_n = self._surprised(score_n)
        if not surprised_n.all():
            self._usual.append(score_n[~surprised_n].tolist())
        share = float(surprised_n.float().mean())
        if self._starts_alarm(share):
            self.noticed += 1
            self.say(f"new task {self.noticed} at step {self.num_timesteps}")
            if self.add_expert:
                likeliest = int(best_Sn[:, surprised_n].mode(0).values.mode().values)
                self._add(likeliest, histories[:, surprised_n].flatten(0, 1))
        self.logger.record("moe/log_likelihood", float(score_n.nanmean()))
        self.logger.record("moe/surprised", share)
        self.logger.record("moe/new_tasks", self.noticed)
        self._kept["state"] = [self.noticed, self._in_row, self._alarmed]
        self._kept["usual"] = list(self._usual)

    def _explained(self, histories: Tensor) -> tuple[Tensor, Tensor]:
        """Return how well the best model explains each history, and its number, both (S, n).

        :param histories: (S, n, K, W); one without a transition has NaN
        """
        belief: Any = self.model.policy.belief
        score_M, best_M = belief.explained(histories.flatten(0, 1)).max(1)
        return score_M.view(histories.shape[:2]), best_M.view(histories.shape[:2])

    def _surprised(self, score_n: Tensor) -> Tensor:
        if len(self._usual) < CALM_WINDOWS:
            return th.zeros_like(score_n, dtype=th.bool)
        usual = np.nanquantile(np.concatenate(self._usual), QUANTILE)
        return score_n < float(usual) - self.margin

    def _starts_alarm(self, share: float) -> bool:
        """Count windows in a row towards an alarm's start, or its end; say whether one starts."""
        turns = share < self.share if self._alarmed else share >= self.share
        self._in_row = self._in_row + 1 if turns else 0
        if self._in_row < self.patience:
            return False
        self._alarmed = not self._alarmed
        self._in_row = 0
        return self._alarmed and self.noticed < self.most

    def _add(self, likeliest: int, histories: Tensor) -> None:
        """Add an expert to every network, with a model fitted to the surprising histories."""
        # At first it is an exact copy, so that the update that follows starts from the same policy.
        add_experts(self.model, like=likeliest, perturb=0.0)
        belief: Any = self.model.policy.belief
        belief.fit(belief.num_models - 1, histories, self.fit_steps)
