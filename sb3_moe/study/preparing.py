"""What a study finds out before it trains: random policy, speeds of training, tuned values."""

import math
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
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

from sb3_moe.measures.hidden import policy_activations
from sb3_moe.saving.files import read_json, write_json
from sb3_moe.study import building
from sb3_moe.study.config import RunConfig, StudyConfig, tuned
from sb3_moe.study.folder import Job, survey
from sb3_moe.study.results import CHOICES, as_table, random_means, random_of, read_runs
from sb3_moe.study.training import begin_with, copy_weights
from sb3_moe.vec_env.evaluating import evaluate_tasks, random_player
from sb3_moe.vec_env.make import evaluation_copies, make_pinned_env
from sb3_moe_envs.schedules import Cycle, Interleave

# Size of a replay buffer where nothing is learned, and its largest size in a rehearsal.
SMALL = 100
ENOUGH = 10_000
# Minibatches in a rehearsed rollout: the time per step hardly depends on how long rollouts are.
MINIBATCHES = 4


def measure_random_policy(study: StudyConfig, root: Path) -> None:
    """Play each task with actions drawn uniformly, unless ``random.json`` has the returns."""
    with suppress(ValueError):  # the file is missing, damaged, or of other settings
        random_means(study, root)
        return
    run = study.runs()[0]
    episodes = study.random_episodes
    print(f"{episodes} episodes of each task are played at random first, for comparison")
    with closing(building.plain_env(run, len(run.games), 0, Interleave())) as like:
        env = make_pinned_env(like, evaluation_copies(like, episodes), seed=0)
    env.action_space.seed(0)
    of = random_of(study)
    masked = of["masked"] and env.has_attr("action_masks")
    returns = evaluate_tasks(random_player(env, masked=masked), env, episodes).returns
    env.close()
    by_task = dict(zip(study.games, returns.round(6).tolist(), strict=True))
    write_json(root / "random.json", {"of": of, "returns": by_task})


def check_networks(runs: Sequence[RunConfig]) -> None:
    """Build the algorithm with each architecture, in the spaces of all tasks, and let it act once.

    :param runs: of one study, one at least
    :raises ValueError: naming the architecture, and why it can't be built
    """
    first = runs[0]
    built = dict[str, BaseAlgorithm]()
    # Two environments: PPO needs more than one sample in a rollout, even with `n_steps=1`.
    only_first = Cycle(1, order=first.games[:1])
    with closing(building.build_env(first, 2, 0, only_first)) as env:
        for name, run in {run.architecture.name: run for run in runs}.items():
            try:
                built[name] = _built(run, env)
                start = run.architecture.start_from
                if start and start.model:
                    begin_with(built[name], run, Path(start.model))
                elif start and str(start.architecture) in built:
                    copy_weights(built[name], built[str(start.architecture)], name)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise ValueError(f"architecture {name!r} can't be built: {reason}") from error


def _built(run: RunConfig, env: VecEnv) -> BaseAlgorithm:
    """Build a run's model and callbacks, and check that they can do what a run needs."""
    arguments = building.arguments_of(run)
    if building.is_off_policy(run.algorithm):
        # Nothing is stored here, and there may be no memory for the buffer's full size.
        arguments["buffer_size"] = SMALL
    with warnings.catch_warnings():
        # SB3 warns of batches larger than a rollout, but a run's rollout is larger than this one.
        warnings.simplefilter("ignore")
        model = building.build_model(run, env, device="cpu", **arguments)
    # Some policies can be built for spaces that they then can't handle.
    obs = model.observation_space.sample()
    model.predict(obs)
    policy = model.policy
    if isinstance(model, OnPolicyAlgorithm) and not hasattr(model, "_last_lstm_states"):
        with th.no_grad():  # what a rollout calls
            policy(policy.obs_to_tensor(obs)[0])
    policy_activations(policy, obs)  # which every run measures from its first step on
    # No more of callbacks is called: at step 0 they might reset the files of a run that goes on.
    named = [*run.callbacks, *run.architecture.callbacks]
    with TemporaryDirectory() as folder:
        for each in building.build_callbacks(named, Path(folder)):
            if hasattr(each, "check_model"):
                each.check_model(model)
    return model


def past_rate(job: Job) -> float | None:
    """Give a run's steps per second in its last attempt; None if it isn't done or took no steps."""
    if job.state.status != "done":
        return None
    done = read_json(job.folder.path / "done.json")
    steps = done["steps"] - done["last_attempt"]["start"]
    return float(steps / max(done["last_attempt"]["seconds"], 1e-2)) if steps else None


def rehearsed_rate(run: RunConfig, seconds: float) -> float:
    """Train a network for a moment in this process, and say how fast its runs would be.

    :param run: of the network
    :param seconds: how long to train, or until the second update if that takes longer
    :return: environment steps per second, evaluation included
    """
    arguments = building.arguments_of(run)
    batch = building.value_of_argument(run, "batch_size")
    off_policy = building.is_off_policy(run.algorithm)
    if off_policy:
        arguments["buffer_size"] = min(building.value_of_argument(run, "buffer_size"), ENOUGH)
    elif batch:
        few = math.ceil(MINIBATCHES * batch / run.n_envs)
        arguments["n_steps"] = min(building.value_of_argument(run, "n_steps"), max(few, 2))
    watch = _Stopwatch(seconds)
    with closing(building.build_env(run, run.n_envs, 0, building.schedule_of(run))) as env:
        model: Any = building.build_model(run, env, seed=0, device=run.device, **arguments)
        if off_policy and not isinstance(model.replay_buffer, HerReplayBuffer):
            model.learning_starts = 0  # steps before it would be too fast
        model.set_logger(Logger(None, []))
        model.learn(run.total_steps, callback=watch)
    lengths = [episode["l"] for episode in model.ep_info_buffer]
    length = float(np.mean(lengths)) if lengths else model.num_timesteps / run.n_envs
    visits = run.total_steps // run.steps_per_task
    # One evaluation before training, and then at most one after each rollout.
    evaluations = 1 + min(visits * run.evaluation.points, run.total_steps // run.rollout)
    steps = evaluations * run.evaluation.episodes * len(run.games) * length
    evaluating = steps * watch.collecting / model.num_timesteps
    return run.total_steps / (run.total_steps / watch.rate + evaluating)


class _Stopwatch(BaseCallback):
    """Stop training when its time is up, but not before the second update."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._starts: list[tuple[float, int]] = []
        self.collecting = 0.0

    @property
    def rate(self) -> float:
        """Steps per second, without the first rollout and update, which compile and allocate.

        A run that has only one rollout is measured whole.
        """
        begun, first = self._starts[min(1, len(self._starts) - 2)]
        end, last = self._starts[-1]
        return (last - first) / (end - begun)

    def _on_rollout_start(self) -> None:
        self._starts.append((time.monotonic(), self.num_timesteps))

    def _on_training_end(self) -> None:
        if len(self._starts) < 3:
            self._on_rollout_start()

    def _on_rollout_end(self) -> None:
        self.collecting += time.monotonic() - self._starts[-1][0]

    def _on_step(self) -> bool:
        return len(self._starts) < 3 or time.monotonic() < self._starts[0][0] + self._seconds


# Tuning: each network's best value of one argument.


def chosen(study: StudyConfig, root: Path) -> StudyConfig:
    """Give a study in which networks have their tuned values, without those that have none yet.

    If no network has one yet, the study stays as it is.

    :raises ValueError: if values were found with other entries of `tune`
    """
    _, values, undecided = _choices(study, root)
    decided = tuple(name for name in study.only or study.networks if name not in undecided)
    if study.tune is None or not decided:
        return study
    with_values = tuned(study, values)
    return replace(with_values, only=decided) if undecided else with_values


def all_runs(study: StudyConfig, root: Path) -> list[RunConfig]:
    """List the runs of a study; those that tune its values come first."""
    if study.tune is None:
        return study.runs()
    found, values, undecided = _choices(study, root)
    grids = {name: [value for value, _ in each["scores"]] for name, each in found.items()}
    grids |= {name: list(study.tune.values) for name in _next(study, undecided)}
    grids = {name: grids[name] for name in grids if name in (study.only or study.networks)}
    values = dict.fromkeys(undecided, study.tune.values[0]) | values
    runs = tuned(study, values).runs()
    return [*trials(study, grids, values).runs(), *runs] if grids else runs


def _choices(study: StudyConfig, root: Path) -> tuple[dict[str, Any], dict[str, float], list[str]]:
    """Read what was found for each network, its value, and whose value is still to be found."""
    if study.tune is None:
        return {}, {}, []
    path = root / CHOICES
    said = study.to_dict()["tune"]
    saved = read_json(path) if path.exists() else {"tune": said, "networks": {}}
    if saved["tune"] != said:
        raise ValueError(
            f"{path} was made with another `tune`; use another output folder, or change it "
            f"back: {saved['tune']} -> {said}"
        )
    found = saved["networks"]
    own = [each.name for each in study.architectures if study.tune.argument in each.arguments]
    # These include networks that others begin with.
    asked = dict.fromkeys(run.architecture.name for run in study.runs())
    undecided = [name for name in asked if name not in {*found, *own}]
    return found, {name: each["value"] for name, each in found.items()}, undecided


def _next(study: StudyConfig, undecided: Collection[str]) -> list[str]:
    """List the networks that can be tuned now: those with no start, or one that has its value."""
    starts = {each.name: each.start_from for each in study.architectures}
    return [
        name for name in undecided if getattr(starts[name], "architecture", None) not in undecided
    ]


def tune(study: StudyConfig, root: Path, train: Callable[[Sequence[Job]], None]) -> bool:
    """Train each network with each value, extend grids whose best is at the edge, and choose.

    Networks that others begin with are tuned first.

    :param root: the study's folder, which gets ``tune.json`` once all of these runs are done
    :param train: a function that trains those of its jobs that aren't done
    :return: whether each network has its value
    """
    found, values, undecided = _choices(study, root)
    if study.tune is None or not undecided:
        return True
    grids = {name: sorted(study.tune.values) for name in _next(study, undecided)}
    for _ in range(study.tune.extensions + 1):
        runs = trials(study, grids, values).runs()
        train(survey(runs, root))
        jobs = survey(runs, root)
        if not all(job.state.status == "done" or _diverged(job) for job in jobs):
            return False
        scores = _scores(study, jobs, root, grids)
        best = {name: max(each, key=each.__getitem__) for name, each in scores.items()}
        further = {name: _beyond(study, name, grids[name], best[name]) for name in grids}
        if not any(further.values()):
            break
        grids = {name: sorted(grids[name] + further[name]) for name in grids}
    if any(np.isinf(max(each.values())) for each in scores.values()):
        raise ValueError("`tune.values` must have one with which training does not diverge")
    for name, each in scores.items():
        found[name] = {
            "value": best[name],
            "at_the_edge": best[name] in (min(each), max(each)),
            "scores": [[v, s if np.isfinite(s) else None] for v, s in each.items()],
        }
    write_json(root / CHOICES, {"tune": study.to_dict()["tune"], "networks": found})
    return tune(study, root, train)


def _diverged(job: Job) -> bool:
    """Say whether a run failed because of NaN: its value is bad, and repeating it won't help."""
    return job.state.status == "failed" and "nan" in job.state.reason.lower()


def _beyond(study: StudyConfig, name: str, values: Sequence[float], best: float) -> list[float]:
    """Give the value that continues a network's grid, in a list; an empty one if none works."""
    value = beyond(values, best)
    if value is not None:
        with suppress(ValueError):  # such as an `n_steps` that `steps_per_task` is no multiple of
            check_networks(trials(study, {name: [value]}, {}).runs())
            return [value]
    return []


def trials(
    study: StudyConfig, grids: Mapping[str, Sequence[float]], values: Mapping[str, float]
) -> StudyConfig:
    """Give the study that tunes: networks with each of their values, on the development seeds.

    :param grids: the values of each network
    :param values: those chosen for other networks, whose weights these may begin with
    """
    assert study.tune is not None
    argument = study.tune.argument
    seeds = study.tune.seeds
    study = tuned(study, values)
    variants = [
        replace(
            each,
            name=_variant(each.name, argument, value),
            arguments={**each.arguments, argument: value},
        )
        for each in study.architectures
        for value in grids.get(each.name, ())
    ]
    # The other networks are there only so that these can begin with them.
    only = tuple(each.name for each in variants)
    networks = (*study.architectures, *variants)
    return replace(study, architectures=networks, only=only, seeds=seeds)


def _variant(name: str, argument: str, value: float) -> str:
    return f"{name}@{argument}={value:g}"


def _scores(
    study: StudyConfig, jobs: Sequence[Job], root: Path, grids: Mapping[str, Sequence[float]]
) -> dict[str, dict[float, float]]:
    """Give each network's score with each value: the mean return above the random policy's.

    It is the mean over all runs and tasks. Each task is divided by its largest mean among the
    network's values, so that tasks weigh alike. A run that diverged, or whose returns are NaN,
    makes its value the worst. Tasks that no run was measured on don't count.
    """
    assert study.tune is not None
    random = random_means(study, root)
    done = [job for job in jobs if job.state.status == "done"]
    failed = {job.run.architecture.name for job in jobs if job.state.status == "failed"}
    table = as_table([job.run for job in done], read_runs(done), random)
    rows = table[table["measure"] == study.tune.measure]
    above = rows["value"] - rows["task"].map(random)
    groups = above.groupby([rows["architecture"], rows["task"]])
    means = groups.agg(lambda group: group.mean(skipna=False))
    found = {}
    for name, values in grids.items():
        names = [_variant(name, study.tune.argument, value) for value in values]
        mine = means.unstack("task").reindex(names).dropna(axis=1, how="all")
        shares = mine / mine.abs().max().clip(lower=1e-12)
        scores = shares.mean(axis=1, skipna=False).fillna(-np.inf)
        scores[scores.index.isin(failed)] = -np.inf
        found[name] = dict(zip(values, scores.tolist(), strict=True))
    return found


def beyond(values: Sequence[float], best: float) -> float | None:
    """Give the value that continues a grid on the side of its best value, if that is an edge.

    It continues the ratio of the two values at that edge, or their difference if the grid has
    values that are not positive. A grid of integers gets an integer. There is none beyond 0 for a
    positive grid, below 0 for a non-negative one, or outside [0, 1] for a grid of shares.

    :param values: in ascending order
    :param best: one of them
    """
    if best not in (values[0], values[-1]):
        return None
    inner = values[1] if best == values[0] else values[-2]
    value = best * best / inner if values[0] > 0 else 2 * best - inner
    whole = all(isinstance(each, int) for each in values)
    value = round(value) if whole else float(f"{value:.3g}")
    is_share = not whole and values[0] >= 0 and values[-1] <= 1
    lost = value <= 0 < values[0] or value < 0 <= values[0] or (is_share and value > 1)
    return None if value in values or lost else value
