"""Prepare a model for the next task when the task changes, and notice tasks that have no id.

Shapes: n environments.
"""

from typing import Any, Literal, get_args

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.her import HerReplayBuffer

from sb3_moe.callbacks.periodic import CheckedCallback, CurrentTask, remembered
from sb3_moe.growing import add_experts, copy_expert, freeze_experts
from sb3_moe.growing.experts import changeable, check_room
from sb3_moe.layers.checks import not_negative, one_of, positive, whole
from sb3_moe.measures.resets import reset_heads, reset_optimizers
from sb3_moe.policies.learning_rates import Restarted
from sb3_moe.policies.of_model import policy_of
from sb3_moe.vec_env.belief import belief_of
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

    A window is the steps between two trainings of a :class:`~sb3_moe.vec_env.VecBelief`, before its
    models have learned from them. In each window every environment gets a score: the mean
    log-likelihood of its transitions, each under the model that the belief holds likeliest. The
    usual scores are those of environments that were not surprised in the last few windows. An
    environment is surprised if its score lies more than ``margin`` below the 5% quantile of the
    usual scores. When at least ``share`` of the environments are surprised in ``patience`` windows
    in a row, a new task is noticed. Another one can be noticed only after as many windows in a row
    in which fewer were surprised.

    It logs ``moe/log_likelihood``, ``moe/surprised`` (the share of surprised environments) and
    ``moe/new_tasks`` (how many were noticed). ``model.new_tasks`` holds what a resumed run needs.

    With ``add_expert``, each new task gets the belief's next spare model, fitted to the surprising
    transitions, and in every mixture with ``router="belief"`` that model's expert becomes a copy of
    the likeliest one. Begin with ``VecBelief(..., active=2)``.

    :param margin: how far below that quantile a surprised environment's score lies, in nats for a
        transition
    :param share: share of the environments that must be surprised, in (0, 1]
    :param patience: in how many windows in a row they must be surprised
    :param add_expert: whether each new task gets a spare model and its expert, as long as there are
        some
    :param fit_steps: gradient steps of that fit
    :param verbose: 1 prints each new task
    :raises TypeError: if a number isn't a whole one
    :raises ValueError: if a value is out of range, there is no belief, or ``add_expert`` finds no
        spare model
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        share: float = 0.1,
        patience: int = 1,
        add_expert: bool = False,
        fit_steps: int = 500,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        whole("patience", patience)
        whole("fit_steps", fit_steps)
        not_negative("margin", margin)
        positive("share", share, at_most=1.0)
        self.margin = margin
        self.share = share
        self.patience = patience
        self.add_expert = add_expert
        self.fit_steps = fit_steps
        self._kept: dict[str, Any] = {}

    @property
    def noticed(self) -> int:
        """How many new tasks were noticed in this run."""
        return int(self._kept["noticed"])

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless there is a belief that learns, with a spare model if need be."""
        belief = belief_of(model.get_env())
        if belief is None or not belief.training:
            raise ValueError(
                "`model` must have an environment with a belief that learns: wrap it in "
                "sb3_moe.vec_env.VecBelief"
            )
        if self.add_expert and not belief.models.num_spare:
            raise ValueError(
                "`add_expert`=True needs a spare model: give VecBelief more `num_models` than "
                f"`active` ones, got {belief.models.num_models}, all active"
            )

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._belief: Any = belief_of(self.model.get_env())
        self._kept = remembered(self.model, "new_tasks")
        # `in_row` counts windows that were surprising (during an alarm: calm), and an alarm is what
        # a new task raises.
        start = {"noticed": 0, "in_row": 0, "alarmed": False, "usual": [], "window": []}
        self._kept |= start | self._kept
        self._kept["window"] = [
            scores for scores in self._kept["window"] if len(scores) == self.model.n_envs
        ]

    def _on_step(self) -> bool:
        belief = self._belief
        likeliest = belief.log_belief.argmax(axis=1)
        scores = np.take_along_axis(belief.log_likelihood, likeliest[:, None], axis=1)[:, 0]
        self._kept["window"].append(scores.tolist())
        if belief.about_to_learn:
            self._judge(np.mean(self._kept["window"], axis=0), likeliest)
            self._kept["window"].clear()
        return True

    def _judge(self, score_n: np.ndarray, likeliest_n: np.ndarray) -> None:
        """Compare the scores of a window with the usual ones."""
        kept = self._kept
        surprised_n = self._surprised(score_n)
        if not surprised_n.all():
            kept["usual"] = [*kept["usual"], score_n[~surprised_n].tolist()][-CALM_WINDOWS:]
        share = float(surprised_n.mean())
        if self._starts_alarm(share):
            kept["noticed"] += 1
            self.say(f"new task {self.noticed} at step {self.num_timesteps}")
            if self.add_expert and self._belief.models.num_spare:
                source = int(np.bincount(likeliest_n[surprised_n]).argmax())
                target = self._belief.activate(surprised_n, self.fit_steps)
                copy_expert(self.model, source, target)
        self.logger.record("moe/log_likelihood", float(score_n.mean()))
        self.logger.record("moe/surprised", share)
        self.logger.record("moe/new_tasks", self.noticed)

    def _surprised(self, score_n: np.ndarray) -> np.ndarray:
        usual = self._kept["usual"]
        if len(usual) < CALM_WINDOWS:
            return np.zeros_like(score_n, dtype=bool)
        return score_n < np.quantile(np.concatenate(usual), QUANTILE) - self.margin

    def _starts_alarm(self, share: float) -> bool:
        """Count windows in a row towards an alarm's start, or its end; say whether one starts."""
        kept = self._kept
        turns = share < self.share if kept["alarmed"] else share >= self.share
        kept["in_row"] = kept["in_row"] + 1 if turns else 0
        if kept["in_row"] < self.patience:
            return False
        kept["alarmed"] = not kept["alarmed"]
        kept["in_row"] = 0
        return bool(kept["alarmed"])
