"""What to do when the task changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.her import HerReplayBuffer

from sb3_moe.growing import add_experts, freeze_experts
from sb3_moe.growing.experts import changeable, check_room
from sb3_moe.measures.resets import reset_heads, reset_optimizers
from sb3_moe.policies.learning_rates import Restarted
from sb3_moe.policies.of_model import policy_of
from sb3_moe.vec_env.kept_rows import Reservoir
from sb3_moe.vec_env.make import are_interleaved
from sb3_moe.vec_env.tasks import name_of, only_task, require_tasks, task_names

Replay = Literal["keep", "clear", "reservoir"]
OnNewTask = Literal["add_expert", "freeze_old"]


class TaskSwitchCallback(BaseCallback):
    """Prepare the model for a new task, at the first start of a rollout that plays one.

    It logs ``continual/task`` and ``continual/switches``. Tasks that are interleaved never switch.
    What a resumed run must know is kept in ``model.task_switches``, which SB3 saves.

    :param reset_optimizer: forget the optimisers' running averages, SAC's entropy coefficient's
        too, whose momentum would go on
        moving, for about a rollout, even an expert that the task router no longer uses
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
        if on_new_task not in (None, "add_expert", "freeze_old"):
            raise ValueError(
                f"`on_new_task` must be None, 'add_expert' or 'freeze_old', got {on_new_task!r}"
            )
        if replay_buffer not in ("keep", "clear", "reservoir"):
            raise ValueError(
                "`replay_buffer` must be one of 'keep', 'clear', 'reservoir', got "
                f"{replay_buffer!r}"
            )
        self.reset_optimizer = reset_optimizer
        self.reset_heads = reset_heads
        self.replay_buffer = replay_buffer
        self.reservoir = Reservoir(reservoir_share)
        self.restart_exploration = restart_exploration
        self.restart_learning_rate = restart_learning_rate
        self.on_new_task = on_new_task
        self.switches = 0
        self._met: set[str] = set()
        self._task: str | None = None
        self._switched_at: int | None = None
        self._reduced_at = 0

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check that the algorithm has what is to be treated."""
        super().init_callback(model)
        require_tasks(self.training_env)
        self.task_names = task_names(self.training_env)
        self._interleaved = are_interleaved(self.training_env)
        self.check_model(model)

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless the model has what is to change at a switch."""
        if self.replay_buffer != "keep":
            self._check_buffer(model)
        if self.on_new_task is not None:
            self._check_experts(model)
        if self.restart_exploration and not hasattr(model, "exploration_schedule"):
            raise ValueError(
                "`restart_exploration` must be False for algorithms without an epsilon, such as "
                f"{type(model).__name__}; use {DQN.__name__}"
            )

    def _check_experts(self, model: BaseAlgorithm) -> None:
        policy = policy_of(model)
        try:
            freezes = self.on_new_task == "freeze_old"
            if freezes:
                policy.check_frozen_experts({name: [0] for name in policy.moe_layers()})
            # One joins at each task but the first; a resumed run has some of these already.
            env = model.get_env()
            names = [] if env is None else task_names(env)
            met = _met_by(_past(model), names)
            joins = len({*names} - met) - (not met)
            if joins > 0:
                check_room(model, joins, frozen=freezes)
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
        self._recall()
        self._restart_schedules()

    def _on_rollout_start(self) -> None:
        task = None if self._interleaved else only_task(self.training_env)
        if task is None:
            return
        name = self.task_names[task]
        if self._task is not None and name != self._task:
            self._switch(task)
        self._met.add(name)
        self._task = name
        self._remember()

    def _on_step(self) -> bool:
        return True

    def _recall(self) -> None:
        """Go on from what the model remembers, unless its run starts anew."""
        past = _past(self.model)
        self._task = name_of(past.get("task"), self.task_names)
        self._switched_at = past.get("switched_at")
        self.switches = past.get("switches", 0)
        self._met = _met_by(past, self.task_names)
        if self.replay_buffer == "reservoir":
            buffer: Any = getattr(self.model, "replay_buffer", None)
            self.reservoir.resume(buffer, past.get("kept", 0), past.get("seen", 0))
            self._reduced_at = past.get("reduced_at", 0)
        vars(self.model)["task_switches"] = past

    def _remember(self) -> None:
        state: dict[str, Any] = {
            "task": self._task,
            "switches": self.switches,
            "switched_at": self._switched_at,
        }
        if self.replay_buffer == "reservoir":
            state |= {
                "kept": self.reservoir.kept,
                "seen": self.reservoir.seen,
                "reduced_at": self._reduced_at,
            }
        if self.on_new_task is not None:
            state["met"] = sorted(self._met)
        # A second such callback, without a reservoir, leaves the first one's part there.
        vars(self.model)["task_switches"] |= state

    def _switch(self, task: int) -> None:
        self.switches += 1
        if self.verbose:
            print(f"Task {self.task_names[task]} begins at {self.model.num_timesteps} steps")
        if self.reset_optimizer:
            reset_optimizers(self.model.policy)
            of_entropy = getattr(self.model, "ent_coef_optimizer", None)  # SAC's and its like's own
            if of_entropy is not None:
                of_entropy.state.clear()
        is_new = self.on_new_task is not None and self.task_names[task] not in self._met
        if is_new and self.on_new_task == "freeze_old":
            for mixture in changeable(self.model):
                freeze_experts(self.model, tower=mixture)
        if self.reset_heads:  # of what is not frozen
            reset_heads(self.model.policy)
        if is_new:
            add_experts(self.model)
        self._treat_buffer()
        self._switched_at = self.model.num_timesteps
        self._restart_schedules()
        self.logger.record("continual/task", task)
        self.logger.record("continual/switches", self.switches)

    def _treat_buffer(self) -> None:
        buffer: Any = getattr(self.model, "replay_buffer", None)
        if self.replay_buffer == "clear":
            buffer.reset()
        elif self.replay_buffer == "reservoir":
            step, before = self.model.num_timesteps, self._reduced_at
            written = (step - before) // self.model.n_envs
            self.reservoir.reduce(buffer, written, np.random.default_rng(step))
            self._reduced_at = step

    def _on_training_end(self) -> None:
        """Leave the model its own schedules: training without this callback would shift them."""
        self._switched_at = None
        self._restart_schedules()

    def _restart_schedules(self) -> None:
        model: Any = self.model
        if self.restart_exploration:
            model.exploration_schedule = self._restarted(model.exploration_schedule)
        if self.restart_learning_rate:
            model.lr_schedule = self._restarted(model.lr_schedule)

    def _restarted(self, schedule: Any) -> Any:
        original = schedule.schedule if isinstance(schedule, Restarted) else schedule
        if self._switched_at is None:
            return original
        return Restarted(original, 1.0 - self._switched_at / self.model._total_timesteps)


def _met_by(past: dict[str, Any], names: Sequence[str]) -> set[str]:
    """Return the names of the tasks that a model has met."""
    task = past.get("task")
    met = past.get("met", [] if task is None else [task])
    return {name for each in met if (name := name_of(each, names)) is not None}


def _past(model: BaseAlgorithm) -> dict[str, Any]:
    """Return what a model remembers of switches; a run that starts anew has none behind it."""
    found: dict[str, Any] = vars(model).get("task_switches", {}) if model.num_timesteps > 0 else {}
    return found
