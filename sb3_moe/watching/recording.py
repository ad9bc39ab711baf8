"""Play every task and record observations, preferences, actions, rewards and routing.

Shapes: T steps, B environments, A choices of one kind, E experts, D components of an action.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import whole
from sb3_moe.layers.evaluating import evaluating, recording
from sb3_moe.measures.hidden import policy_activations
from sb3_moe.measures.plasticity import TAUS, dormant_fraction, dormant_fraction_per_expert
from sb3_moe.policies.belief import HISTORY_KEY
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.networks import Decision, networks_of
from sb3_moe.policies.of_model import policy_of
from sb3_moe.vec_env.evaluating import OF_ATARI, is_lost_life, takes_masks
from sb3_moe.vec_env.observations import Obs, concatenate, select, spread
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

Expert = str | tuple[str, int]
AS_IT_IS = "the agent as it is"
# Most observations on which dormant units are measured.
PROBE = 256


def watch(
    model: BaseAlgorithm,
    env: gym.Env[Any, Any] | VecEnv | str | None = None,
    *,
    tasks: str | int | Sequence[str | int] | None = None,
    episodes: int = 1,
    without: str | Sequence[Expert] = (),
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
    >>> track = replay.runs[0].tracks[0]
    >>> track.gates["pi.middle"].shape  # steps, experts
    (5, 4)

    :param model: of any algorithm, a dense one too
    :param env: any environment that the model takes, or its id; None: one like the model's own.
        The model's own, and those of :func:`sb3_moe.make_multitask_vec_env`, are built again
    :param tasks: a name or index, or several, of the tasks to play; None: all
    :param episodes: of each task, at least 1
    :param without: an expert as ``"pi:2"``, or several, each so or as ``("pi", 2)``
    :param max_steps: of each task; the last episode is cut there
    :param seed: of the environments and the actions
    :param deterministic: as in ``predict``
    :param frames: whether to record the images (uint8) that the environment draws
    :raises TypeError: if a number is no int
    :raises ValueError: if a number is below 1, there is no such task, network or expert, or ``env``
        normalizes observations otherwise than the model's own, or is the model's own and can't be
        built again
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
    kind = player.decision.kind
    return Replay(
        title=f"{type(model).__name__} with {type(model.policy).__name__}",
        task_names=watched.names,
        kind=kind,
        critics=[*player.decision.values],
        mixtures=mixtures,
        runs=runs,
        no_frames=player.no_frames,
        bounds=_bounds(model.action_space) if kind == "mean" else [],
    )


def _experts_of(model: BaseAlgorithm, without: str | Sequence[Expert]) -> list[tuple[str, int]]:
    """Return the network and number of each expert to switch off, and check that it exists."""
    given = [without] if isinstance(without, str) else without
    experts = [expert_named(each) for each in given]
    for each in experts:
        with without_expert(model, *each):  # raises if there is no such expert
            pass
    return experts


def _bounds(space: Any) -> list[float]:
    """Return the largest absolute value of each component of an action; 0: it is unbounded."""
    sizes_D = np.maximum(np.abs(space.low), np.abs(space.high)).reshape(-1)
    return np.where(np.isfinite(sizes_D), sizes_D, 0.0).tolist()


def expert_named(expert: Any) -> tuple[str, int]:
    """Read an expert's name, such as ``"pi:2"``.

    :raises ValueError: if it is no such name
    """
    if isinstance(expert, tuple):
        return expert
    network, _, number = str(expert).rpartition(":")
    if not (network and number.isdecimal()):
        raise ValueError(f"`without` must name experts as 'pi:2', or 'pi.middle:2', got {expert!r}")
    return network, int(number)


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
        self._networks, self._env = networks_of(policy), self.watched.env
        self.layers: dict[str, MoELayer] = (
            policy.moe_layers() if isinstance(policy, MoEPolicy) else {}
        )
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
        env, meanings = self._env, action_meanings(self._env)
        obs: Any = env.reset()
        starts = np.ones(env.num_envs, dtype=bool)
        playing = tasks_played(env).tolist()
        notes = {
            playing.index(task): _Notes(self.watched.names[task], meanings.get(task, ()))
            for task in tasks
        }
        states, memory, masked = None, None, takes_masks(self.model, env)
        while running := [row for row, note in notes.items() if not self._is_over(note)]:
            images = self._images()
            masks = {"action_masks": np.stack(env.env_method("action_masks"))} if masked else {}
            decision, gates, memory = self._look(obs, memory, starts, masks)
            explained = self._explained(obs)
            actions, states = self.model.predict(
                obs, state=states, episode_start=starts, deterministic=self.deterministic, **masks
            )
            after, rewards, dones, infos = env.step(actions)
            for row in running:
                notes[row].add_decision(row, obs, images, decision, gates, explained)
                notes[row].add_step(actions[row], rewards[row], dones[row], infos[row])
            obs, starts = after, dones
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
                self._draws, self.no_frames = False, in_one_line(error)
        return [None] * self._env.num_envs

    @th.no_grad()
    def _look(
        self, obs: Any, memory: Any, starts: np.ndarray[Any, Any], masks: dict[str, Any]
    ) -> tuple[Decision, dict[str, th.Tensor], Any]:
        """Return the policy's preferences, each mixture's gates (B, E), and the policy's memory."""
        policy = self.model.policy
        tensors, _ = policy.obs_to_tensor(obs)
        starts_B = th.as_tensor(starts, dtype=th.float32, device=policy.device)
        with evaluating(policy), recording(self.layers) as calls:
            decision, memory = self._networks.step(tensors, memory, starts_B, **masks)
        if decision.kind == "mean" and policy.squash_output:
            # In the units in which the environment gets actions.
            (mean_BD,) = decision.preferences
            space: Any = policy.action_space
            mean_B = mean_BD.cpu().numpy().reshape(-1, *space.shape)
            played = policy.unscale_action(mean_B).reshape(mean_BD.shape)
            decision = decision._replace(preferences=(th.as_tensor(played),))
        self.decision = decision
        gates = {n: each[-1].output[1].gates_BNE.mean(1).cpu() for n, each in calls.items()}
        return decision, gates, memory

    def _explained(self, obs: Any) -> th.Tensor | None:
        """Return how well each model of a belief explains the last steps, (B, E)."""
        policy = self.model.policy
        if not isinstance(policy, MoEPolicy) or policy.belief is None:
            return None
        return policy.belief.explained(policy.obs_to_tensor(obs)[0][HISTORY_KEY])


class _Notes:
    """What is recorded of one task, step by step.

    :param task: its name
    :param actions: the task's names of its actions, if it has any
    """

    def __init__(self, task: str, actions: Sequence[str]) -> None:
        self._task, self._actions = task, actions
        self._frames: dict[bytes, tuple[int, Frame]] = {}
        self._steps: dict[str, list[Any]] = defaultdict(list)  # by fields of Track
        self._gates: dict[str, list[Any]] = defaultdict(list)
        self._preferences: dict[int, list[Any]] = defaultdict(list)
        self._score = 0.0
        self.seen: list[Obs] = []
        self.returns: list[float] = []
        #: Whether the next step begins an episode.
        self.begins = True

    def add_decision(
        self,
        row: int,
        obs: Any,
        images: Sequence[Frame | None],
        decision: Decision,
        gates: Mapping[str, th.Tensor],
        explained_BE: th.Tensor | None,
    ) -> None:
        """Record what the agent sees and prefers.

        :param row: of this task's environment in the other arguments
        :param obs: of all environments
        :param images: of all environments
        :param decision: of all environments
        :param gates: of all environments, by mixture
        :param explained_BE: of all environments, where there is a belief
        """
        self.seen.append(select(obs, np.array([row])))
        self._steps["frame_T"].append(self._number_of(images[row]))
        self._steps["values_TV"].append([float(each[row]) for each in decision.values.values()])
        if explained_BE is not None:
            self._steps["explained_TE"].append(explained_BE[row].cpu().numpy())
        for i, each in enumerate(decision.preferences):
            self._preferences[i].append(each[row].cpu().numpy())
        for name, gates_BE in gates.items():
            self._gates[name].append(gates_BE[row].numpy())

    def add_step(self, action: Any, reward: float, done: bool, info: Mapping[str, Any]) -> None:
        """Record the agent's action, and what the step gave."""
        self._steps["actions_TD"].append(np.asarray(action, np.float32).reshape(-1))
        self._steps["starts_T"].append(self.begins)
        self._steps["rewards_T"].append(float(reward))
        self._score += float(reward)
        # A lost life ends no episode here: the return of the game goes on.
        self.begins = bool(done) and not is_lost_life(info)
        if self.begins:
            # Rewards of Atari are clipped; its score is not.
            self.returns.append(float(info["score"]) if info.get(OF_ATARI) else self._score)
            self._score = 0.0

    def track(self, policy: BasePolicy) -> Track:
        """Return the recorded track.

        :param policy: whose dormant units are measured
        """
        return Track(
            task=self._task,
            frames=[frame for _, frame in self._frames.values()],
            preferences=[_stacked(rows) for rows in self._preferences.values()],
            gates={name: _stacked(rows) for name, rows in self._gates.items()},
            returns=self.returns,
            dormant=_dormant_units(policy, self.seen),
            actions=list(self._actions),
            **{name: _stacked(rows) for name, rows in self._steps.items()},
        )

    def _number_of(self, image: Frame | None) -> int:
        """Return the number of an image: equal images are kept once, under one number."""
        if image is None:
            return -1
        key = str(image.shape).encode() + hashlib.sha256(image.data).digest()
        return self._frames.setdefault(key, (len(self._frames), image))[0]


def _stacked(rows: list[Any]) -> Any:
    """Return steps as one array, floats in the single precision that the page uses."""
    found = np.array(rows)
    return found.astype(np.float32) if found.dtype.kind == "f" else found


def _dormant_units(policy: BasePolicy, seen: Sequence[Obs]) -> list[DormantUnits]:
    """Measure the dormant units of each hidden layer on observations that the agent saw."""
    batch, tau = spread(concatenate(seen), min(PROBE, len(seen))), TAUS[0]
    return [
        DormantUnits(
            layer,
            dormant_fraction(each.activity_EH, tau),
            tuple(dormant_fraction_per_expert(each.activity_EH, tau).tolist()),
            tuple([True] if each.rows_E is None else (each.rows_E > 0).tolist()),
        )
        for layer, each in policy_activations(policy, batch).items()
    ]
