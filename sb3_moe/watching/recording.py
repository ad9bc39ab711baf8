"""Play every task and record observations, preferences, actions, rewards and routing.

Shapes: T steps, B environments, A choices of one kind, E experts, D components of an action.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import whole
from sb3_moe.layers.evaluating import evaluating, recording
from sb3_moe.measures.hidden import policy_activations
from sb3_moe.measures.plasticity import TAUS, dormant_fraction, dormant_fraction_per_expert
from sb3_moe.policies.networks import Decision, networks_of
from sb3_moe.policies.of_model import policy_of
from sb3_moe.vec_env.evaluating import OF_ATARI, game_return, is_lost_life, takes_masks
from sb3_moe.vec_env.observations import Obs, concatenate, map_observation, select, spread
from sb3_moe.vec_env.task_ids import BELIEF_KEY
from sb3_moe.vec_env.tasks import action_meanings, tasks_played
from sb3_moe.watching.frames import Frame, as_frame
from sb3_moe.watching.interventions import without_expert
from sb3_moe.watching.replays import DormantUnits, Mixture, Replay, Run, Track
from sb3_moe.watching.watched_env import (
    NO_MODE,
    WatchedEnv,
    in_one_line,
    seed_everything,
    watched_env,
)

# What is recorded at a step: "preferences" by number, "gates" by mixture, and other "columns" by
# their names in a track.
Step = dict[str, Any]
AS_IT_IS = "the agent as it is"
# Most observations on which dormant units are measured.
PROBE = 256


def watch(
    model: BaseAlgorithm,
    env: GymEnv | str | None = None,
    *,
    tasks: str | int | Sequence[str | int] | None = None,
    episodes: int = 1,
    without: str | Sequence[str] = (),
    max_steps: int = 1000,
    seed: int = 0,
    deterministic: bool = True,
    frames: bool = True,
) -> Replay:
    """Play every task and record images, actions, values, rewards, gates and dormant units.

    The model, its environment and the random generators are left as they were. With ``without``
    everything is played again, from the same seed, for each expert that is switched off.

    >>> from stable_baselines3 import PPO
    >>> model = PPO("MoeMlpPolicy", "CartPole-v1")
    >>> replay = watch(model, max_steps=5, frames=False)
    >>> replay.runs[0].tracks[0].gates["pi.middle"].shape  # steps, experts
    (5, 4)

    :param model: of any algorithm, a dense one too
    :param env: any environment that the model takes, or its id; None: one like the model's own.
        The model's own, and those of :func:`sb3_moe.make_multitask_vec_env`, are built again
    :param tasks: a name or index, or several, of the tasks to play; None: all
    :param episodes: of each task, at least 1
    :param without: an expert as ``"pi:2"``, or several
    :param max_steps: of each task; the last episode is cut there
    :param seed: of the environments and the actions
    :param deterministic: as in ``predict``
    :param frames: whether to record the images (uint8) that the environment draws
    :raises TypeError: if a number is no int
    :raises ValueError: if a number is below 1, there is no such task, network or expert, or ``env``
        can't be built again or normalizes observations otherwise than the model's own
    """
    whole("episodes", episodes)
    whole("max_steps", max_steps)
    experts = _experts_of(model, without)
    with watched_env(model, env, frames) as watched:
        chosen = _chosen(watched.names, tasks)
        player = _Player(model, watched, chosen, episodes, max_steps, deterministic)
        runs = [Run(AS_IT_IS, {}, player.play(seed))]
        runs += [player.play_without(*expert, seed) for expert in experts]
    mixtures = [
        Mixture(name, layer.num_experts, layer.name) for name, layer in player.layers.items()
    ]
    if not any(track.frames for run in runs for track in run.tracks):
        player.no_frames = player.no_frames or NO_MODE
    return Replay(
        title=f"{type(model).__name__} with {type(model.policy).__name__}",
        task_names=watched.names,
        kind=player.decision.kind,
        critics=[*player.decision.values],
        mixtures=mixtures,
        runs=runs,
        no_frames=player.no_frames,
        bounds=_bounds(model.action_space) if player.decision.kind == "mean" else [],
    )


def _experts_of(model: BaseAlgorithm, without: str | Sequence[str]) -> list[tuple[str, int]]:
    """Return the network and number of each expert to switch off, and check that it exists."""
    experts = []
    for name in [without] if isinstance(without, str) else without:
        network, _, number = name.rpartition(":")
        if not (network and number.isdecimal()):
            raise ValueError(
                f"`without` must name experts as 'pi:2' or 'pi.middle:2', got {name!r}"
            )
        with without_expert(model, network, int(number)):  # raises if there is no such expert
            experts.append((network, int(number)))
    return experts


def _bounds(space: Any) -> list[float]:
    """Return the largest absolute value of each component of an action; 0: it is unbounded."""
    largest = np.maximum(np.abs(space.low), np.abs(space.high))
    return np.nan_to_num(largest, posinf=0.0).reshape(-1).tolist()


def _chosen(names: list[str], tasks: Any) -> list[int]:
    if tasks is None:
        return list(range(len(names)))
    given: Any = [tasks] if np.isscalar(tasks) else tasks
    chosen = [names.index(task) if task in names else task for task in given]
    if not {*chosen} <= {*range(len(names))}:
        raise ValueError(f"`tasks` must be among {names}, got {tasks!r}")
    return list(dict.fromkeys(map(int, chosen)))


@dataclass
class _Player:
    """Plays the same tasks at each call of :meth:`play`, and records them.

    :param model: of any algorithm
    :param watched: the environment
    :param tasks: indices of those to play
    :param episodes: of each
    :param max_steps: of each
    :param deterministic: as in ``predict``
    """

    model: BaseAlgorithm
    watched: WatchedEnv
    tasks: list[int]
    episodes: int
    max_steps: int
    deterministic: bool

    decision: Decision = field(init=False)  # the latest

    def __post_init__(self) -> None:
        policy = self.model.policy
        self._networks = networks_of(policy)
        self._env = self.watched.env
        self.layers: dict[str, MoELayer] = getattr(policy, "moe_layers", dict)()
        #: Why there are no images, or no more from some step on; None if there are.
        self.no_frames = self.watched.no_frames
        self._pins_tasks = len(self.watched.names) > 1 and not self.watched.side_by_side

    def play(self, seed: int) -> list[Track]:
        """Play all tasks from a seed, with images until one can't be drawn."""
        # If drawing failed in an earlier run, this one still has images up to the same step.
        self._draws = self.watched.no_frames is None
        together = [self.tasks] if self.watched.side_by_side else [[k] for k in self.tasks]
        tracks = []
        seed_everything(self.model, self._env, seed)
        try:
            for tasks in together:
                self._env.seed(seed)
                if self._pins_tasks:
                    self._env.env_method("set_task", tasks[0])
                tracks += self._play(tasks)
        finally:
            if self._pins_tasks:
                self._env.env_method("set_task", None)
        return tracks

    def play_without(self, network: str, expert: int, seed: int) -> Run:
        """Play all tasks from a seed, with an expert switched off."""
        off = policy_of(self.model).mixtures(network)
        with without_expert(self.model, network, expert):
            tracks = self.play(seed)
        label = f"without expert {expert} of {network}"
        return Run(label, {name: [expert] for name in off}, tracks)

    def _play(self, tasks: list[int]) -> list[Track]:
        """Play some tasks, each in an environment of its own, until all have their episodes."""
        env = self._env
        meanings = action_meanings(self._env)
        obs: Any = env.reset()
        starts = np.ones(env.num_envs, bool)
        playing = tasks_played(env).tolist()
        notes = {
            playing.index(task): _Notes(self.watched.names[task], meanings.get(task, ()))
            for task in tasks
        }
        states = None
        memory = None
        masked = takes_masks(self.model, env)
        while running := [row for row, note in notes.items() if not self._is_over(note)]:
            images = self._images()
            masks = {"action_masks": np.stack(env.env_method("action_masks"))} if masked else {}
            step, memory = self._look(obs, memory, starts, masks)
            actions, states = self.model.predict(
                obs, state=states, episode_start=starts, deterministic=self.deterministic, **masks
            )
            after, rewards, dones, infos = env.step(actions)
            actions_BD = np.asarray(actions, np.float32).reshape(env.num_envs, -1)
            step["columns"] |= {"actions_TD": actions_BD, "rewards_T": rewards}
            for row in running:
                seen = select(obs, np.array([row]))
                mine = {kind: select(arrays, row) for kind, arrays in step.items()}
                notes[row].add(seen, images[row], mine, bool(dones[row]), infos[row])
            obs = after
            starts = dones
        return [each.track(self.model.policy) for each in notes.values()]

    def _is_over(self, notes: _Notes) -> bool:
        return len(notes.returns) >= self.episodes or len(notes.seen) >= self.max_steps

    def _images(self) -> list[Frame | None]:
        """Draw every environment; after the first error, play goes on without images."""
        if self._draws:
            try:
                with warnings.catch_warnings(action="ignore"):  # SB3's, if there is no render mode
                    images = self._env.get_images()
                return [None if each is None else as_frame(each) for each in images]
            except Exception as error:  # an environment may raise anything
                self._draws = False
                self.no_frames = in_one_line(error)
        return [None] * self._env.num_envs

    @th.no_grad()
    def _look(
        self, obs: Any, memory: Any, starts: np.ndarray, masks: dict[str, Any]
    ) -> tuple[Step, Any]:
        """Return what the policy prefers, its critics' values and gates, and its memory."""
        policy = self.model.policy
        tensors: Any = policy.obs_to_tensor(obs)[0]
        starts_B = th.as_tensor(starts, dtype=th.float32, device=policy.device)
        with evaluating(policy), recording(self.layers) as calls:
            decision, memory = self._networks.step(tensors, memory, starts_B, **masks)
        self.decision = decision
        preferences = [each.cpu().numpy() for each in decision.preferences]
        if decision.kind == "mean" and policy.squash_output:
            # In the units in which the environment gets actions.
            (mean_BD,) = preferences
            space: Any = policy.action_space
            played = policy.unscale_action(mean_BD.reshape(-1, *space.shape))
            preferences = [played.reshape(mean_BD.shape)]
        gates = {name: each[-1].output[1].gates_BNE.mean(1) for name, each in calls.items()}
        values = th.stack([*decision.values.values()], -1)
        step: Step = {
            "preferences": dict(enumerate(preferences)),
            "gates": {name: each.cpu().numpy() for name, each in gates.items()},
            "columns": {"values_TV": values.cpu().numpy()},
        }
        if isinstance(tensors, dict) and BELIEF_KEY in tensors:
            step["columns"]["belief_TE"] = tensors[BELIEF_KEY].cpu().numpy()
        return step, memory


class _Notes:
    """What is recorded of one task, step by step.

    :param task: its name
    :param actions: the task's names of its actions, if it has any
    """

    def __init__(self, task: str, actions: Sequence[str]) -> None:
        self._task = task
        self._actions = actions
        self._frames: dict[bytes, tuple[int, Frame]] = {}
        self._steps: list[Step] = []
        self._score = 0.0
        self.seen: list[Obs] = []
        self.returns: list[float] = []
        #: Whether the next step begins an episode.
        self.begins = True

    def add(
        self, seen: Obs, image: Frame | None, step: Step, done: bool, info: Mapping[str, Any]
    ) -> None:
        """Record a step.

        :param seen: what the agent saw, a batch of one
        :param image: of what it saw
        :param step: what it preferred and did, and its reward
        :param done: whether the step ended an episode
        :param info: of the step
        """
        step["columns"] |= {"frame_T": self._number_of(image), "starts_T": self.begins}
        self._steps.append(step)
        self.seen.append(seen)
        self._score += float(step["columns"]["rewards_T"])
        # A lost life ends no episode here: the return of the game goes on.
        self.begins = done and not is_lost_life(info)
        if self.begins:
            # Rewards may be clipped or scaled; a score is not, nor what a monitor inside has seen.
            told = info.keys() & {"episode", OF_ATARI}
            self.returns.append(game_return(info) if told else self._score)
            self._score = 0.0

    def track(self, policy: BasePolicy) -> Track:
        """Return the recorded track.

        :param policy: whose dormant units are measured
        """
        found = {
            kind: map_observation(_stacked, *(step[kind] for step in self._steps))
            for kind in self._steps[0]
        }
        return Track(
            task=self._task,
            frames=[frame for _, frame in self._frames.values()],
            preferences=[*found["preferences"].values()],
            gates=found["gates"],
            returns=self.returns,
            dormant=_dormant_units(policy, self.seen),
            actions=list(self._actions),
            **found["columns"],
        )

    def _number_of(self, image: Frame | None) -> int:
        """Return the number of an image: equal images are kept once, under one number."""
        if image is None:
            return -1
        key = str(image.shape).encode() + hashlib.sha256(image.data).digest()
        return self._frames.setdefault(key, (len(self._frames), image))[0]


def _stacked(*rows: Any) -> Any:
    """Return steps as one array, floats in the single precision that the page uses."""
    found = np.array(rows)
    return found.astype(np.float32) if found.dtype.kind == "f" else found


def _dormant_units(policy: BasePolicy, seen: Sequence[Obs]) -> list[DormantUnits]:
    """Measure the dormant units of each hidden layer on observations that the agent saw."""
    batch = spread(concatenate(seen), min(PROBE, len(seen)))
    tau = TAUS[0]
    return [
        DormantUnits(
            layer,
            dormant_fraction(each.activity_EH, tau),
            tuple(dormant_fraction_per_expert(each.activity_EH, tau).tolist()),
            tuple([True] if each.rows_E is None else (each.rows_E > 0).tolist()),
        )
        for layer, each in policy_activations(policy, batch).items()
    ]
