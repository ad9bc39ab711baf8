"""What to do when the task changes."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.her import HerReplayBuffer

from sb3_moe.callbacks.periodic import CheckedCallback, CurrentTask, remembered
from sb3_moe.growing import add_experts, freeze_experts
from sb3_moe.growing.experts import changeable, check_room
from sb3_moe.layers.checks import one_of
from sb3_moe.measures.resets import reset_heads, reset_optimizers
from sb3_moe.policies.learning_rates import Restarted
from sb3_moe.policies.of_model import policy_of
from sb3_moe.vec_env.kept_rows import Reservoir
from sb3_moe.vec_env.tasks import task_names

Replay = Literal["keep", "clear", "reservoir"]
OnNewTask = Literal["add_expert", "freeze_old"]


class TaskSwitchCallback(CheckedCallback):
    """Prepare the model for a new task, at the first start of a rollout that plays one.

    It logs ``continual/task`` and ``continual/switches``. Tasks that are interleaved never switch.
    What a resumed run must know is kept in ``model.task_switches``, which SB3 saves.

    :param reset_optimizer: forget the optimizers' running averages, SAC's entropy coefficient's
        too: for about a rollout their momentum would move even an expert that is no longer used
    :param reset_heads: draw the last layer of every network anew
    :param replay_buffer: ``"keep"`` it, ``"clear"`` it, or keep a ``"reservoir"``, in which every
        transition of the run so far is equally likely, and fill the rest of the buffer anew. SB3
        counts ``learning_starts`` from the run's beginning alone: after ``"clear"`` it goes on with
        batches drawn from the new task's first few transitions
    :param reservoir_share: share of the buffer that the reservoir takes at most, in (0, 1)
    :param restart_exploration: DQN's epsilon starts again, at the pace at which it first fell
    :param restart_learning_rate: a schedule of the learning rate starts again likewise; see
        :class:`~sb3_moe.callbacks.LinearPerBlock` for one that reaches zero in every block
    :param on_new_task: at a task that wasn't met before, ``"add_expert"`` to every mixture, as
        :func:`sb3_moe.add_experts` does; ``"freeze_old"`` freezes all there are and adds one
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
        """Raise ValueError unless the model has what is to change at a switch."""
        if self.replay_buffer != "keep":
            self._check_buffer(model)
        if self.on_new_task is not None:
            self._check_experts(model)
        if self.restart_exploration and not hasattr(model, "exploration_schedule"):
            raise ValueError(
                "`restart_exploration` must be False for algorithms without an epsilon, such as "
                f"{type(model).__name__}; use DQN"
            )

    def _check_experts(self, model: BaseAlgorithm) -> None:
        policy = policy_of(model)
        try:
            if self.on_new_task == "freeze_old":
                policy.check_frozen_experts({name: [0] for name in policy.moe_layers()})
            # One joins at each task but the first; a resumed run has some of these already.
            env = model.get_env()
            names = set() if env is None else {*task_names(env)}
            past = vars(model).get("task_switches", {}) if model.num_timesteps > 0 else {}
            met = names.intersection(past.get("met", [past.get("task")]))
            joins = len(names - met) - (not met)
            if joins > 0:
                check_room(model, joins)
        except ValueError as error:
            raise ValueError(f"`on_new_task` can't be {self.on_new_task!r}: {error}") from error

    def _check_buffer(self, model: BaseAlgorithm) -> None:
        if not isinstance(model, OffPolicyAlgorithm):
            raise ValueError(
                f"`replay_buffer` must be 'keep' for {type(model).__name__}, which has none, "
                f"got {self.replay_buffer!r}"
            )
        if self.replay_buffer == "reservoir":
            self.reservoir.check(model.replay_buffer)
        elif isinstance(model.replay_buffer, HerReplayBuffer):
            raise ValueError(
                "`replay_buffer` must be 'keep' with a HerReplayBuffer, whose reset() leaves its "
                f"episodes in it, got {self.replay_buffer!r}"
            )

    def _on_training_start(self) -> None:
        self._shared = remembered(self.model, "task_switches")
        self.kept: dict[str, Any] = {"task": None, "switches": 0, "switched_at": None}
        if self.replay_buffer == "reservoir":
            self.kept |= {"kept": 0, "seen": 0, "reduced_at": 0}
        if self.on_new_task is not None:
            task = self._shared.get("task")
            self.kept["met"] = [] if task is None else [task]
        self.kept |= {name: self._shared[name] for name in self.kept if name in self._shared}
        if self.replay_buffer == "reservoir":
            buffer: Any = getattr(self.model, "replay_buffer", None)
            self.reservoir.resume(buffer, self.kept["kept"], self.kept["seen"])
        self._restart_schedules(self.kept["switched_at"])

    def _on_rollout_start(self) -> None:
        task = self._task.name()
        if task is None:
            return
        if self.kept["task"] not in (None, task):
            self._switch(task)
        self.kept["task"] = task
        if self.on_new_task is not None:
            self.kept["met"] = sorted({*self.kept["met"], task})
        # A second such callback, without a reservoir, leaves the first one's part there.
        self._shared.update(self.kept)

    def _switch(self, task: str) -> None:
        step, policy = self.model.num_timesteps, self.model.policy
        self.kept["switches"] += 1
        if self.verbose:
            print(f"Task {task} begins at {step} steps")
        if self.reset_optimizer:
            reset_optimizers(policy)
            of_entropy = getattr(self.model, "ent_coef_optimizer", None)  # SAC's and its like's own
            if of_entropy is not None:
                of_entropy.state.clear()
        is_new = self.on_new_task is not None and task not in self.kept["met"]
        if is_new and self.on_new_task == "freeze_old":
            for mixture in changeable(self.model):
                freeze_experts(self.model, tower=mixture)
        if self.reset_heads:  # of what is not frozen
            reset_heads(policy)
        if is_new:
            add_experts(self.model)
        self._treat_buffer(step)
        self.kept["switched_at"] = step
        self._restart_schedules(step)
        self.logger.record("continual/task", self._task.names.index(task))
        self.logger.record("continual/switches", self.kept["switches"])

    def _treat_buffer(self, step: int) -> None:
        buffer: Any = getattr(self.model, "replay_buffer", None)
        if self.replay_buffer == "clear":
            buffer.reset()
        elif self.replay_buffer == "reservoir":
            written = (step - self.kept["reduced_at"]) // self.model.n_envs
            self.reservoir.reduce(buffer, written, np.random.default_rng(step))
            self.kept |= {
                "kept": self.reservoir.kept,
                "seen": self.reservoir.seen,
                "reduced_at": step,
            }

    def _on_training_end(self) -> None:
        """Leave the model its own schedules: training without this callback would shift them."""
        self._restart_schedules(None)

    def _restart_schedules(self, step: int | None) -> None:
        """Let schedules begin again at a step; None: let them be as they were."""
        model: Any = self.model
        wanted = {
            "exploration_schedule": self.restart_exploration,
            "lr_schedule": self.restart_learning_rate,
        }
        for name in (name for name, restarts in wanted.items() if restarts):
            schedule = getattr(model, name)
            if isinstance(schedule, Restarted):
                schedule = schedule.schedule
            if step is not None:
                schedule = Restarted(schedule, 1.0 - step / model._total_timesteps)
            setattr(model, name, schedule)
