"""What a study finds out before it trains: levels, speeds, and the values that suit networks."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her import HerReplayBuffer

from sb3_moe.measures.activations import policy_activations
from sb3_moe.saving.files import read_json, write_json
from sb3_moe.study.building import (
    arguments_of,
    build_callbacks,
    build_env,
    build_model,
    is_off_policy,
    plain_env,
    schedule_of,
    value_of_argument,
)
from sb3_moe.study.config import RunConfig
from sb3_moe.study.engine import child_environment, environment
from sb3_moe.study.folder import Job, survey
from sb3_moe.study.grid import StudyConfig, tuned
from sb3_moe.study.results import CHOICES, as_table, random_means, random_of, read_runs
from sb3_moe.study.training import begin_with, take_over
from sb3_moe.vec_env.evaluating import evaluate_tasks, random_actions
from sb3_moe.vec_env.make import evaluation_copies, make_pinned_env

# Transitions that a replay buffer has room for where nothing is learned, and in a rehearsal.
SMALL, ENOUGH = 100, 10_000
# Minibatches in a rehearsed rollout: the time per step hardly depends on how long rollouts are.
MINIBATCHES = 4


class _AtRandom:
    """A policy that draws its actions uniformly, of those that are allowed."""

    def __init__(self, env: VecEnv, masked: bool) -> None:
        self._env, self._masked = env, masked

    def predict(self, obs: Any, **_: Any) -> tuple[Any, None]:
        return random_actions(self._env, masked=self._masked), None


def measure_random_policy(study: StudyConfig, root: Path) -> None:
    """Play each task with actions drawn uniformly, unless ``random.json`` has its returns."""
    from sb3_moe_envs.schedules import Interleave

    try:
        random_means(study, root)
        return
    except ValueError:  # not there, damaged, or of what the study was before
        pass
    run, episodes = study.runs()[0], study.random_episodes
    with environment(child_environment(root)):
        like = plain_env(run, len(run.games), 0, Interleave())
        env = make_pinned_env(like, evaluation_copies(like, episodes), seed=0)
        like.close()
        env.action_space.seed(0)
        masked = bool(random_of(study)["masked"]) and env.has_attr("action_masks")
        player: Any = _AtRandom(env, masked)
        returns = evaluate_tasks(player, env, episodes).returns
        env.close()
    rounded = np.round(returns, 6).tolist()
    values = {"of": random_of(study), "returns": dict(zip(study.games, rounded, strict=True))}
    write_json(root / "random.json", values)


def check_networks(runs: Sequence[RunConfig], root: Path) -> None:
    """Build the algorithm with each architecture, in the spaces of all tasks, and let it act once.

    :param runs: of one study, one at least
    :param root: folder of the study
    :raises ValueError: naming the architecture, and why it can't be built, or the actions that the
        algorithm can't take
    """
    from sb3_moe_envs.schedules import Cycle

    first, built = runs[0], dict[str, BaseAlgorithm]()
    with environment(child_environment(root)):
        # PPO wants more than one sample to a rollout, whatever `n_steps` is.
        env = build_env(first, 2, 0, Cycle(1, order=first.games[:1]))
    try:
        try:
            build_model(first, env, device="cpu", _init_setup_model=False)
        except AssertionError as error:
            raise ValueError(
                f"`algorithm` {first.algorithm} can't be trained here: {error}"
            ) from error
        for name, run in {run.architecture.name: run for run in runs}.items():
            try:
                built[name] = _build(run, env)
                _check_start(run, built)
                _check_callbacks(run, built[name])
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise ValueError(f"architecture {name!r} can't be built: {reason}") from error
    finally:
        env.close()


def _build(run: RunConfig, env: VecEnv) -> BaseAlgorithm:
    arguments = arguments_of(run)
    if is_off_policy(run.algorithm):
        # What it would hold isn't needed, and may be more than there is room for.
        arguments["buffer_size"] = SMALL
    with warnings.catch_warnings():
        # That a batch is larger than a rollout is so with two parallel environments only.
        warnings.simplefilter("ignore")
        model = build_model(run, env, device="cpu", **arguments)
    # Some policies can be built in spaces that they can't see.
    obs: Any = model.observation_space.sample()
    model.predict(obs)
    policy: Any = model.policy
    if isinstance(model, OnPolicyAlgorithm) and not hasattr(model, "_last_lstm_states"):
        with th.no_grad():  # what a rollout calls
            policy(policy.obs_to_tensor(obs)[0])
    policy_activations(policy, obs)  # which every run measures from its first step on
    return model


def _check_start(run: RunConfig, built: Mapping[str, BaseAlgorithm]) -> None:
    """Try what a network will begin with, where it is there already.

    :param built: new models of the networks so far, which starts are among: they come first
    """
    start, model = run.architecture.start_from, built[run.architecture.name]
    if start is not None and start.model is not None:
        begin_with(model, run, Path(start.model))
    elif start is not None and str(start.architecture) in built:
        take_over(model, built[str(start.architecture)], run.architecture.name)


def _check_callbacks(run: RunConfig, model: BaseAlgorithm) -> None:
    """Build a run's callbacks, and ask those that can say it whether they take the model.

    No more of them is called: at step 0 they might find the files of a run that goes on.
    """
    with TemporaryDirectory() as folder:
        for each in build_callbacks([*run.callbacks, *run.architecture.callbacks], Path(folder)):
            check = getattr(each, "check_model", None)
            if callable(check):
                check(model)


def past_rate(job: Job) -> float | None:
    """Give the steps per second of a run's last attempt; None if it isn't done, or did nothing."""
    if job.state.status != "done":
        return None
    done = read_json(job.folder.path / "done.json")
    attempt = done["last_attempt"]
    steps = done["steps"] - attempt["start"]
    return float(steps / max(attempt["seconds"], 1e-2)) if steps else None


def rehearsed_rate(run: RunConfig, seconds: float) -> float:
    """Train a network for a moment in this process, and say how fast its runs would be.

    :param run: of the network
    :param seconds: to train, if that is enough for two updates
    :return: environment steps per second, evaluation included
    """
    threads = th.get_num_threads()
    th.set_num_threads(1)
    env = build_env(run, run.n_envs, 0, schedule_of(run))
    try:
        model: Any = build_model(run, env, seed=0, device=run.device, **_short(run))
        if is_off_policy(run.algorithm) and not isinstance(model.replay_buffer, HerReplayBuffer):
            model.learning_starts = 0  # waiting is faster than what is measured
        model.set_logger(Logger(None, []))
        watch = _Stopwatch(seconds)
        model.learn(run.total_steps, callback=watch)
        lengths = [episode["l"] for episode in model.ep_info_buffer]
        length = float(np.mean(lengths)) if lengths else model.num_timesteps / run.n_envs
    finally:
        env.close()
        th.set_num_threads(threads)
    visits = run.total_steps // run.steps_per_task
    # One before training, and then at most one after each rollout.
    evaluations = 1 + min(visits * run.evaluation.points, run.total_steps // run.rollout)
    steps = evaluations * run.evaluation.episodes * len(run.games) * length
    evaluating = steps * watch.collecting / model.num_timesteps
    return run.total_steps / (run.total_steps / watch.rate + evaluating)


def _short(run: RunConfig) -> dict[str, Any]:
    """Give a run's arguments with short rollouts and a small buffer."""
    arguments, batch = arguments_of(run), value_of_argument(run, "batch_size")
    if is_off_policy(run.algorithm):
        arguments["buffer_size"] = min(value_of_argument(run, "buffer_size"), ENOUGH)
    elif batch:
        few = math.ceil(MINIBATCHES * batch / run.n_envs)
        arguments["n_steps"] = min(value_of_argument(run, "n_steps"), max(few, 2))
    return arguments


class _Stopwatch(BaseCallback):
    """Stop training when its time is up, but not before the second update."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._starts: list[tuple[float, int]] = []
        self.collecting = 0.0

    @property
    def rate(self) -> float:
        """Steps per second, without the first rollout and update, which compile and allocate."""
        (begun, first), (end, last) = self._starts[1], self._starts[-1]
        return (last - first) / max(end - begun, 1e-9)

    def _on_training_start(self) -> None:
        self._end = time.monotonic() + self._seconds

    def _on_rollout_start(self) -> None:
        self._starts.append((time.monotonic(), self.num_timesteps))

    def _on_rollout_end(self) -> None:
        self.collecting += time.monotonic() - self._starts[-1][0]

    def _on_step(self) -> bool:
        return len(self._starts) < 3 or time.monotonic() < self._end


def chosen(study: StudyConfig, root: Path) -> StudyConfig:
    """Give a study with the values that were found; as it is while networks lack theirs.

    :raises ValueError: if they were found with other entries of `tune`
    """
    if study.tune is None or _open(study, root):
        return study
    networks = _choices(study, root)
    return tuned(study, {name: each["value"] for name, each in networks.items()})


def all_runs(study: StudyConfig, root: Path) -> list[RunConfig]:
    """List the runs of a study, those that choose its values first where it lacks some."""
    undecided = _open(study, root)
    if study.tune is None or not undecided:
        return chosen(study, root).runs()
    values = dict.fromkeys(undecided, study.tune.values[0])
    values |= {name: each["value"] for name, each in _choices(study, root).items()}
    grids = dict.fromkeys(undecided, study.tune.values)
    return [*trials(study, grids).runs(), *tuned(study, values).runs()]


def _open(study: StudyConfig, root: Path) -> list[str]:
    """List the networks whose value is still to be found."""
    if study.tune is None:
        return []
    found = _choices(study, root)
    return [
        each.name
        for each in study.architectures
        if study.tune.argument not in each.arguments
        and each.name not in found
        and (not study.only or each.name in study.only)
    ]


def _choices(study: StudyConfig, root: Path) -> dict[str, Any]:
    """Read what was found for each network."""
    path = root / CHOICES
    if not path.exists():
        return {}
    found, said = read_json(path), study.to_dict()["tune"]
    if found["tune"] != said:
        raise ValueError(
            f"{path} was made with another `tune`; use another output folder, or change it back: "
            f"{found['tune']} -> {said}"
        )
    return dict(found["networks"])


def tune(study: StudyConfig, root: Path, train: Callable[[Sequence[Job]], None]) -> None:
    """Run the values of each network, further ones where the best is at the edge, and choose.

    :param study: with an entry `tune`
    :param root: its folder, which gets ``tune.json`` unless a run isn't done
    :param train: runs those of some jobs that aren't done
    """
    assert study.tune is not None
    grids = {name: sorted(study.tune.values) for name in _open(study, root)}
    for _ in range(study.tune.extensions + 1):
        runs = trials(study, grids).runs()
        train(survey(runs, root))
        jobs = survey(runs, root)
        if any(job.state.status != "done" for job in jobs):
            return
        scores = _scores(study, jobs, root, grids)
        best = {name: max(each, key=lambda value: each[value]) for name, each in scores.items()}
        further = {name: beyond(grids[name], best[name]) for name in grids}
        if all(value is None for value in further.values()):
            break
        for name, value in further.items():
            grids[name] = sorted({*grids[name], *([] if value is None else [value])})
    found = _choices(study, root)
    for name, each in scores.items():
        found[name] = {
            "value": best[name],
            "at_the_edge": further[name] is not None,
            "scores": [[v, s if np.isfinite(s) else None] for v, s in sorted(each.items())],
        }
    write_json(root / CHOICES, {"tune": study.to_dict()["tune"], "networks": found})


def trials(study: StudyConfig, grids: Mapping[str, Sequence[float]]) -> StudyConfig:
    """Give the study of the development seeds: networks with each of their values.

    :param grids: the values of each network
    """
    assert study.tune is not None
    argument = study.tune.argument
    variants = [
        replace(
            each,
            name=_variant(each.name, argument, value),
            arguments={**each.arguments, argument: value},
        )
        for each in study.architectures
        for value in grids.get(each.name, ())
    ]
    return replace(
        study,
        # The others are there only to be begun with.
        architectures=(*study.architectures, *variants),
        only=tuple(each.name for each in variants),
        seeds=study.tune.seeds,
        tune=None,
    )


def _variant(name: str, argument: str, value: float) -> str:
    return f"{name}@{argument}={value:g}"


def _scores(
    study: StudyConfig, jobs: Sequence[Job], root: Path, grids: Mapping[str, Sequence[float]]
) -> dict[str, dict[float, float]]:
    """Give each network's score with each value: its mean return above the random policy's.

    Over all evaluations of the tasks that a run trains, and all runs. Each task is divided by its
    largest mean among the network's values, so that tasks weigh alike. A run whose returns are no
    numbers makes its value the worst.
    """
    assert study.tune is not None
    argument, random = study.tune.argument, random_means(study, root)
    table = as_table([job.run for job in jobs], read_runs(jobs), random)
    rows = table[table["measure"] == "return"]
    places = zip(rows["order"], rows["task"], strict=True)
    rows = rows[[order == "" or f" {task} " in f" {order} " for order, task in places]]
    above = rows["value"] - rows["task"].map(random)
    means = above.groupby([rows["architecture"], rows["task"]]).agg(lambda x: x.mean(skipna=False))
    found = {}
    for name, values in grids.items():
        mine = means.unstack("task").loc[[_variant(name, argument, value) for value in values]]
        mine = mine.dropna(axis=1, how="all")
        shares = mine / mine.abs().max().clip(lower=1e-12)
        scores = shares.mean(axis=1, skipna=False).fillna(-np.inf)
        found[name] = dict(zip(values, map(float, scores), strict=True))
    return found


def beyond(values: Sequence[float], best: float) -> float | None:
    """Give the value that continues a grid on the side of its best value, if that is an edge.

    By the ratio of the last two values, or by their difference where one is not positive; whole
    numbers stay whole.

    :param values: rising
    :param best: one of them
    """
    if best not in (values[0], values[-1]):
        return None
    edge, inner = (values[0], values[1]) if best == values[0] else (values[-1], values[-2])
    value = edge * edge / inner if values[0] > 0 else 2 * edge - inner
    whole = all(isinstance(each, int) for each in values)
    value = round(value) if whole else float(f"{value:.3g}")
    return None if value in values or (value <= 0 < values[0]) else value
