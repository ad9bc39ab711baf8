"""Play every task and write down what is seen, thought, done and got.

Shapes: T steps, B copies of the environment, E experts, D components of an action.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sb3_moe.is_model import model_of_sb3
from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import whole
from sb3_moe.layers.evaluating import evaluating
from sb3_moe.measures.activations import recording
from sb3_moe.networks import networks_of
from sb3_moe.networks.decisions import Decision
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.saving.generators import preserved_generators
from sb3_moe.vec_env.evaluating import takes_masks
from sb3_moe.vec_env.tasks import action_meanings, tasks_played
from sb3_moe.watching.interventions import mixtures_of, when_off, without_expert
from sb3_moe.watching.notes import Notes
from sb3_moe.watching.replay import Frame, Mixture, Replay, Run, Track
from sb3_moe.watching.stage import Stage, drawn, seed_generators, stage_for, why_not_drawn

Expert = str | tuple[str, int]
AS_IT_IS = "the agent as it is"


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
    """Play every task and record pictures, actions, values, rewards, gates and dormant units.

    The model, its environment and the random generators are left as they were. Dense policies are
    watched too. With ``without`` everything is played again, from the same seed, for each expert
    that is switched off.

    >>> from stable_baselines3 import PPO
    >>> model = PPO("MoeMlpPolicy", "CartPole-v1")
    >>> replay = watch(model, max_steps=5, frames=False)
    >>> track = replay.runs[0].tracks[0]
    >>> track.gates["pi.middle"].shape  # steps, experts
    (5, 4)

    :param model: of any algorithm
    :param env: as the model takes it, an id too; None: one like the model's own. What
        :func:`sb3_moe.make_multitask_vec_env` built is built again, with a copy for each task, and
        so is the model's own
    :param tasks: a name or index, or several, of the tasks to play; None: all
    :param episodes: of each task, at least 1
    :param without: an expert as ``"pi:2"``, or several, each so or as ``("pi", 2)``
    :param max_steps: of each task; the last episode is cut there
    :param seed: of the environments and the actions
    :param deterministic: as in ``predict``
    :param frames: whether to take pictures, of 0 to 255, or floats that all lie in [0, 1]
    :raises TypeError: if ``model`` is no model, or a number no int
    :raises ValueError: if a number is below 1, there is no such task, tower or expert, or ``env``
        doesn't normalise observations as the model's own environment does, or is the model's own
        and can't be built again
    :raises RuntimeError: if a process of ``env`` ended while it drew
    """
    model_of_sb3(model)
    whole("episodes", episodes)
    whole("max_steps", max_steps)
    named = [without] if isinstance(without, str) else without
    experts = [expert_named(each) for each in named]
    mixtures = _mixtures(model)
    for each in experts:
        with without_expert(model, *each):  # raises for what isn't there
            pass
    with preserved_generators(model.action_space.np_random):
        stage = stage_for(model, env, frames)
        try:
            chosen = _chosen(stage.names, tasks)
            player = _Player(model, stage, chosen, episodes, max_steps, deterministic)
            runs = [Run(AS_IT_IS, "", {}, player.play(seed))]
            for tower, k in experts:
                with without_expert(model, tower, k):
                    tracks = player.play(seed)
                off = {name: [k] for name in mixtures_of(model, tower)}
                label = f"without expert {k} of {tower}"
                runs.append(Run(label, _note(model, tower), off, tracks))
        finally:
            stage.leave()
    title = f"{type(model).__name__} with {type(model.policy).__name__}"
    kind, critics = player.kind_and_critics
    return Replay(title, stage.names, kind, critics, mixtures, runs, player.no_frames)


def expert_named(expert: Expert) -> tuple[str, int]:
    """Read an expert's name, such as ``"pi:2"``.

    :raises ValueError: if it is none
    """
    if isinstance(expert, str):
        tower, colon, number = expert.rpartition(":")
        if not colon or not number.isdecimal():
            raise ValueError(f"`without` must name experts as 'pi:2', got {expert!r}")
        return tower, int(number)
    pair: Any = expert
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Integral)):
        raise ValueError(f"`without` must name experts as 'pi:2', got {expert!r}")
    return pair[0], int(pair[1])


def _mixtures(model: BaseAlgorithm) -> list[Mixture]:
    return [
        Mixture(name, layer.num_experts, layer.name, when_off(layer))
        for name, layer in _layers(model).items()
    ]


def _layers(model: BaseAlgorithm) -> dict[str, MoELayer]:
    policy = model.policy
    return policy.moe_layers() if isinstance(policy, MoEPolicy) else {}


def _note(model: BaseAlgorithm, tower: str) -> str:
    notes = dict.fromkeys(
        f"{layer.name} router: {when_off(layer)}" for layer in mixtures_of(model, tower).values()
    )
    return "; ".join(notes)


def _chosen(names: list[str], tasks: str | int | Sequence[str | int] | None) -> list[int]:
    if tasks is None:
        return list(range(len(names)))
    chosen = []
    for task in [tasks] if isinstance(tasks, str | int) else tasks:
        index = names.index(task) if task in names else task
        if not isinstance(index, int | np.integer) or not 0 <= index < len(names):
            raise ValueError(f"`tasks` must be among {names}, got {task!r}")
        chosen.append(int(index))
    if not chosen:
        raise ValueError(f"`tasks` must name at least one of {names}, got none")
    return list(dict.fromkeys(chosen))


class _Player:
    """Plays the same tasks as often as it is asked to.

    :param model: of any algorithm
    :param stage: where
    :param tasks: indices of those to play
    :param episodes: of each
    :param max_steps: of each
    :param deterministic: as in ``predict``
    """

    def __init__(
        self,
        model: BaseAlgorithm,
        stage: Stage,
        tasks: list[int],
        episodes: int,
        max_steps: int,
        deterministic: bool,
    ) -> None:
        self._model, self._stage, self._tasks = model, stage, tasks
        self._episodes, self._max_steps = episodes, max_steps
        self._deterministic = deterministic
        self._masked = takes_masks(model, stage.env)
        #: Why there are no pictures, or no more from some step on; None if there are.
        self.no_frames = stage.no_frames
        self._draws = stage.no_frames is None
        self._mind = Mind(model)
        self._meanings = action_meanings(stage.env)

    @property
    def kind_and_critics(self) -> tuple[Any, list[str]]:
        """What the policy's preferences are, and its critics' names."""
        decision = self._mind.decision
        return decision.kind, list(decision.values)

    def play(self, seed: int) -> list[Track]:
        """Play all tasks from a seed, with pictures until one can't be drawn."""
        # What failed in an earlier run may be drawn as long in this one, to be compared.
        self._draws = self._stage.no_frames is None
        seed_generators(self._model, seed)
        env = self._stage.env
        if self._stage.side_by_side:
            env.seed(seed)
            return self._play(self._tasks)
        tracks = []
        for task in self._tasks:
            env.seed(seed)
            if self._others_follow:
                env.set_options({"task_id": task})
            tracks += self._play([task])
        return tracks

    def _play(self, tasks: list[int]) -> list[Track]:
        """Play some tasks, each in a copy of its own, until all have their episodes."""
        env, obs = self._stage.env, self._stage.env.reset()
        copies = self._copies(tasks)
        notes = {
            copy: Notes(self._stage.names[task], self._meanings.get(task, ()))
            for task, copy in zip(tasks, copies, strict=True)
        }
        states, starts = None, np.ones(env.num_envs, dtype=bool)
        self._mind.wake()
        while running := [c for c, n in notes.items() if not n.is_over(self._goal)]:
            pictures = self._pictures()
            playing = tasks_played(env)
            masks = self._masks()
            decision, gates = self._mind.look(obs, starts, **masks)
            actions, states = self._model.predict(
                obs,  # type: ignore[arg-type]  # SB3 takes no tuple
                state=states,
                episode_start=starts,
                deterministic=self._deterministic,
                **masks,
            )
            after, rewards, dones, infos = env.step(actions)
            for copy in running:
                notes[copy].see(copy, obs, pictures, decision, gates)
                notes[copy].do(actions[copy], playing[copy])
                notes[copy].get(rewards[copy], dones[copy], infos[copy])
            obs, starts = after, dones
            if self._others_follow and any(notes[copy].has_just_ended for copy in running):
                env.set_options({"task_id": tasks[0]})
                obs, starts = env.reset(), np.ones(env.num_envs, dtype=bool)
        return [each.track(self._model.policy, list(self._mind.layers)) for each in notes.values()]

    def _pictures(self) -> list[Frame | None] | None:
        """Draw every copy, until one of them can't be drawn: it is played on without pictures."""
        if not self._draws:
            return None
        try:
            return drawn(self._stage.env)
        except Exception as error:  # an environment may raise anything
            # What is raised in a process of SB3's ends it, and comes here as a broken pipe.
            lost = isinstance(error, EOFError | ConnectionError)
            if lost and isinstance(self._stage.env.unwrapped, SubprocVecEnv):
                raise RuntimeError(
                    "`env` can't be played on, since one of its processes ended while it drew: "
                    "pass frames=False, or put it into a DummyVecEnv, to see why"
                ) from error
            self._draws, self.no_frames = False, why_not_drawn(error)
            return None

    @property
    def _others_follow(self) -> bool:
        """Whether the task that a reset's options name is played for one episode alone."""
        return len(self._stage.names) > 1 and not self._stage.side_by_side

    @property
    def _goal(self) -> tuple[int, int]:
        return self._episodes, self._max_steps

    def _copies(self, tasks: list[int]) -> list[int]:
        playing = tasks_played(self._stage.env).tolist()
        missing = [self._stage.names[task] for task in tasks if task not in playing]
        if missing:
            raise ValueError(
                f"`env` must play the task that reset(options={{'task_id': k}}) names, but didn't "
                f"play {missing}; build it with sb3_moe.make_multitask_vec_env(tasks)"
            )
        return [playing.index(task) for task in tasks]

    def _masks(self) -> dict[str, Any]:
        if not self._masked:
            return {}
        return {"action_masks": np.stack(self._stage.env.env_method("action_masks"))}


class Mind:
    """What the policy thinks in each step: its preferences, its values, its gates.

    :param model: of any algorithm
    """

    decision: Decision

    def __init__(self, model: BaseAlgorithm) -> None:
        self._policy, self._networks = model.policy, networks_of(model.policy)
        self.layers = _layers(model)

    def wake(self) -> None:
        """Forget what was before."""
        self._memory: Any = None

    @th.no_grad()
    def look(
        self, obs: Any, starts: np.ndarray[Any, Any], **masks: Any
    ) -> tuple[Decision, dict[str, th.Tensor]]:
        """Return what it thinks of a batch, and the gates of each mixture, (B, E).

        :param obs: as the environment gives them
        :param starts: where an episode starts, (B,)
        :param masks: ``action_masks`` where the policy takes them
        """
        tensors, _ = self._policy.obs_to_tensor(obs)
        starts_B = th.as_tensor(starts, dtype=th.float32, device=self._policy.device)
        with evaluating(self._policy), recording(self.layers) as outputs:
            self.decision, self._memory = self._networks.decide(
                tensors, self._memory, starts_B, **masks
            )
        if self.decision.kind == "mean" and self._policy.squash_output:
            # As the environment gets them.
            (mean_BD,) = self.decision.preferences
            played = self._policy.unscale_action(mean_BD.cpu().numpy())
            # The spread, where there is one, is that before the squashing.
            self.decision = self.decision._replace(preferences=(th.as_tensor(played),), spread=None)
        gates = {name: calls[-1][1].gates_BNE.mean(1).cpu() for name, calls in outputs.items()}
        return self.decision, gates
