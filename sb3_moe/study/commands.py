"""The commands of ``sb3-moe``: ``study``, and ``watch`` and ``card`` for an agent's file."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch as th
from gymnasium import spaces
from rich.console import Console
from rich.progress import track
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_moe.integrations.hub import check_folder, push, write_folder
from sb3_moe.layers.classes import imported
from sb3_moe.policies.belief import HISTORY_KEY
from sb3_moe.saving.files import check_writable, write_json
from sb3_moe.saving.model_file import MAX_BYTES, load
from sb3_moe.saving.model_parts import NormalizerLeftOutWarning
from sb3_moe.study import building, config, engine, preparing
from sb3_moe.study.building import game_id, read_yaml
from sb3_moe.study.folder import STATISTICS, Job, held, is_held, refuse_changes, steps_in, survey
from sb3_moe.study.judging import load_claims, missing
from sb3_moe.study.report import check_report_folder, write_replays, write_report
from sb3_moe.study.results import complete_table
from sb3_moe.study.training import versions
from sb3_moe.vec_env.make import make_multitask_vec_env
from sb3_moe.vec_env.tasks import names_on
from sb3_moe.watching.films import FILMS
from sb3_moe.watching.importance import expert_importance, first_network_with_experts
from sb3_moe.watching.recording import watch as record
from sb3_moe.watching.replays import steps_of
from sb3_moe_envs import SUITES
from sb3_moe_envs.suites import tasks_of

if TYPE_CHECKING:
    import sb3_moe_cli as cli

#: How observations may show which task is played: the values of ``task_id``.
SHOWN = ("dict", "onehot", "channels", "info")
# Seconds for which `plan` trains: all networks together, and each network at least.
REHEARSAL, SHORTEST = 12.0, 1.0


def read(options: cli.StudyOptions) -> tuple[config.StudyConfig, Path]:
    """Read the study and apply the command line's changes; give the study and its folder."""
    changes = {name: getattr(options, name) for name in ("seeds", "steps_per_task", "only")}
    study = config.load_study(options.study, options.architecture, **changes)
    root = options.out or Path("runs") / study.name
    os.environ.update(engine.variables(root))  # which the processes of runs inherit
    return study, root


def schema(options: cli.Schema) -> int:
    """Print the JSON schema of a study's file."""
    print(json.dumps(config.schema(), indent=1))
    return 0


def status(options: cli.Status) -> int:
    """Print the state of a study's runs."""
    return show_status(*read(options))


def show_status(study: config.StudyConfig, root: Path) -> int:
    """Print the state of a study's runs.

    :return: 1 if a run failed or is damaged, else 0
    :raises ValueError: if a folder was made by another configuration
    """
    jobs = survey(preparing.all_runs(study, root), root)
    counts = Counter[str]()
    for job in jobs:
        word, reason = str(job.state.status), job.state.reason
        if word == "interrupted":
            done = f"at {steps_in(job.folder.last_logged()):,} of {job.run.total_steps:,} steps"
            reason = f"{done}, goes on from {job.folder.goes_on_at():,} {reason}"
            if is_held(job.folder.path):
                word, reason = "being trained", done
        counts[word] += 1
        if word not in ("done", "missing"):
            print(f"{job.folder.path}: {word}: {reason}")
    print(", ".join(f"{count} {word}" for word, count in counts.items()))
    wrong = counts["failed"] + counts["damaged"]
    if wrong:
        print("run those that failed or are damaged again with: run --retry")
    refuse_changes(jobs)
    return 1 if wrong else 0


def make_engine(options: cli.Run, study: config.StudyConfig, root: Path) -> engine.Engine:
    """Give the engine that a command line asks for.

    :raises ValueError: if an option is of another engine, or runs would not find their device
    """
    others = {"local": ("address", "cpus", "gpus", "slurm"), "ray": ("processes", "slurm")}
    for name in others.get(options.engine, ("address",)):
        if value := getattr(options, name):
            raise ValueError(
                f"`--{name}` must be left out with `--engine {options.engine}`, got {value}"
            )
    if options.engine == "local":
        try:
            th.empty(0, device=study.device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"`device` must be one that torch has: {error}") from error
        return engine.LocalEngine(options.processes)
    cpus, gpus = options.cpus or 1.0, options.gpus or 0.0
    if study.device.startswith("cuda") and not options.gpus:
        raise ValueError("`--gpus` must be above 0 where `device` is cuda: runs would see no GPU")
    if options.engine == "ray":
        return engine.RayEngine(root, options.address, cpus, gpus)
    pairs = (each.partition("=") for each in options.slurm)
    parameters = {name: _slurm_value(text) for name, _, text in pairs}
    return engine.SlurmEngine(root, cpus, gpus, options.processes, **parameters)


def _slurm_value(text: str) -> Any:
    """Read a number or another value of JSON; other texts, such as times, stay as they are."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def run(options: cli.Run) -> int:
    """Train the runs that are not done, then write the report.

    :return: 1 if a run is not done at the end, else 0
    :raises ValueError: if a claim is wrong, a network can't be built, or a folder was made by
        another configuration
    :raises BusyError: if another process runs the study in the folder
    """
    study, root = read(options)
    for number in (signal.SIGTERM, signal.SIGHUP):  # stop as Ctrl-C does, unless nohup ignores them
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    check_claims(study)
    check_writable(root)
    check_report_folder(root)
    with held(root):
        refuse_changes(survey(preparing.all_runs(replace(study, only=()), root), root))
        # The program's name without the folder in which it is installed.
        command = shlex.join(["sb3-moe", *sys.argv[1:]])
        said = {"study": study.to_dict(), "command": command, "versions": versions()}
        write_json(root / "study.json", said)
        # Before jax is loaded: Ray starts processes by fork, which can hang once jax is loaded.
        where = make_engine(options, study, root)
        try:
            jobs = train(study, root, where, options.retry)
        except KeyboardInterrupt:
            print(f"stopped; what is finished stays in {root}: run again to go on")
            raise
        finally:
            where.stop()
    states = {job.state.status for job in jobs}
    if "done" in states:
        write(replace(study, only=()), root, replays=options.replays)
    show_status(study, root)
    return 0 if states == {"done"} else 1


def train(
    study: config.StudyConfig, root: Path, where: engine.Engine, retry: bool = False
) -> list[Job]:
    """Train the runs that are not done, tuning runs first, and look at all folders again.

    :param retry: also run again those that failed or are damaged
    :return: all runs of the study; none if a value could not be chosen
    """

    def run_some(jobs: Sequence[Job]) -> None:
        todo = engine.unfinished(jobs, retry)
        if todo:
            preparing.check_networks([job.run for job in todo])
        preparing.measure_random_policy(study, root)
        engine.run_jobs(todo, where, Console())

    if not preparing.tune(study, root, run_some):
        return []
    found = preparing.chosen(study, root)
    run_some(survey(found.runs(), root))
    return survey(found.runs(), root)


def check_claims(study: config.StudyConfig) -> None:
    """Read the claims, so that an error in them shows before anything is run.

    Comparisons for which no run gives a value are only printed: several studies may share a file
    of claims.

    :raises ValueError: naming the claim
    """
    claims = load_claims(study.claims, study.games)
    for line in missing(claims, complete_table(replace(study, only=()).runs())):
        print(line)


def report(options: cli.Report) -> int:
    """Write the report from the runs that are done."""
    write(*read(options), options.to, replays=options.replays, partial=options.partial)
    return 0


def write(study: config.StudyConfig, root: Path, to: Path | None = None, **options: bool) -> None:
    """Write the report from the runs that are done.

    :param options: ``replays``: with a page for each network on which it plays; ``partial``: with
        the curves of runs that are not done
    """
    study, folder = preparing.chosen(study, root), check_report_folder(root, to)
    for line in write_replays(study, root, folder) if options.pop("replays", False) else ():
        print(line)
    print(f"report: {write_report(study, root, folder, **options)}")


def plan(options: cli.Plan) -> int:
    """Print what would run, and how long it would take.

    A network's speed is taken from its runs that are done; one that has none yet is trained for a
    moment.

    :raises ValueError: if a claim or the number of processes is wrong, a folder was made by another
        configuration, or a network can't be built
    """
    processes = engine.check_processes(options.processes)
    study, root = read(options)
    check_claims(study)
    jobs = survey(preparing.all_runs(study, root), root)
    refuse_changes(jobs)
    left = [job for job in jobs if job.state.status != "done"]
    print(f"{len(jobs)} runs, {len(jobs) - len(left)} done, folder {root}")
    networks = {_network(job): job.run for job in left}
    if not networks:
        return 0
    rates = {_network(job): rate for job in jobs if (rate := preparing.past_rate(job)) is not None}
    untried = {name: run for name, run in networks.items() if name not in rates}
    seconds = max(REHEARSAL / max(len(untried), 1), SHORTEST)
    th.set_num_threads(1)  # as in a run's process
    preparing.check_networks(list(networks.values()))
    for name, run in track(untried.items(), "training each network a little"):
        rates[name] = preparing.rehearsed_rate(run, seconds)
    for name in networks:
        runs = sum(_network(job) == name for job in left)
        how = "measured now" if name in untried else "as in runs that are done"
        print(f"  {name}: {runs} runs left, {rates[name]:,.0f} steps/s, one process, {how}")
    each = [(j.run.total_steps - j.folder.goes_on_at()) / rates[_network(j)] for j in left]
    total = timedelta(seconds=round(max(*each, sum(each) / processes)))
    print(f"about {total} with {processes} processes, with evaluation, without report and replays")
    return 0


def _network(job: Job) -> str:
    """Give the name of a run's network, without the value that a tuning run tries."""
    return job.run.architecture.name.partition("@")[0]


# Opening an agent's file, with the tasks that the agent was trained on.


def opened(options: cli.AgentOptions) -> BaseAlgorithm:
    """Open a model with an environment that shows the tasks as in its training.

    The file is opened twice: the model's observation space says how tasks are shown to it.

    :param options: of the command line
    :raises ValueError: if no task is named, or the tasks aren't the model's
    """
    if not options.tasks:
        raise ValueError("`--tasks` must name a suite or Gymnasium ids, got none")
    # Two threads are no faster on a single observation, and wait for each other on a busy machine.
    th.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NormalizerLeftOutWarning)
        space = _load(options, None).observation_space
    return _load(options, env_for(options.tasks, space))


def _load(options: cli.AgentOptions, env: Any) -> BaseAlgorithm:
    path = options.model
    statistics = path.with_name(STATISTICS)
    for each in (path, statistics):
        if each.suffix in (".zip", ".pkl") and each.exists() and not options.trust:
            raise ValueError(
                f"{each.name} can run code when it is opened: pass --trust if it is your own"
            )
    if env is not None and statistics.exists():
        venv = env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])
        env = VecNormalize.load(str(statistics), venv)
    if path.suffix != ".zip":
        own = {each.partition(":")[2]: imported(each, "--custom") for each in options.custom}
        limit = sys.maxsize if options.trust else MAX_BYTES
        in_file = not statistics.exists()
        return load(
            path, env, device="cpu", custom_objects=own, max_bytes=limit, normalizer=in_file
        )
    try:
        return building.algorithm_class(options.algorithm).load(path, env, device="cpu")
    except Exception as error:  # the file of another algorithm may raise anything
        raise ValueError(
            f"{path.name} can't be opened as a model of {options.algorithm} "
            f"({type(error).__name__}: {error}); `--algorithm` must be the one that it is of"
        ) from error


def env_for(words: Sequence[str], space: spaces.Space[Any]) -> VecEnv | gym.Env[Any, Any]:
    """Build an environment that shows the tasks as in a model's training, in the same order.

    :param words: a suite's name, or ids, ids with arguments as in a study's file, or
        ``module:callable``
    :param space: the model's observation space
    :raises ValueError: if no way of showing the tasks fits, or no environment can be built
    """
    tasks = _in_order(words, space)
    if not isinstance(tasks, str) and len(tasks) == 1 and tasks[0].env_id and not names_on(space):
        alone = tasks[0].make()  # not wrapped, so that the agent's card can name its id
        if alone.observation_space == space:
            return alone
        alone.close()
    seen: Any = space.spaces if isinstance(space, spaces.Dict) else {}
    history = seen[HISTORY_KEY].shape[0] if HISTORY_KEY in seen else None
    for shown in SHOWN:
        try:
            env = make_multitask_vec_env(tasks, task_id=shown, history=history)
        except ValueError:
            if shown == SHOWN[-1]:  # "info" adds nothing, so the environment itself can't be built
                raise
            continue  # not every environment can be shown in every way
        if _fits(env.observation_space, space):
            return env
        env.close()
    raise ValueError(
        f"`--tasks` must be those that the model was trained on: no way to show {list(words)} "
        f"gives its observations, {space}"
    )


def _in_order(words: Sequence[str], space: spaces.Space[Any]) -> Any:
    """Put tasks into a model's order, if its observation space names them.

    A suite in its own order stays a name, so that the agent's card can use it.

    :raises ValueError: if the tasks aren't the model's
    """
    known = names_on(space)
    if known is not None and sorted(map(game_id, words)) == sorted(map(game_id, known)):
        return building.read_tasks(known)  # a study's games, by short names or full ids
    entries = [read_yaml(word) if word.startswith("[") else word for word in words]
    is_suite = len(words) == 1 and words[0] in SUITES
    tasks = words[0] if is_suite else [building.resolve_task(each, "--tasks") for each in entries]
    found = {each.name: each for each in tasks_of(tasks)}
    if is_suite and known in (None, [*found]):
        return tasks
    if known is None or len(known) == len(found) == 1:
        return list(found.values())
    if sorted(found) != sorted(known):
        raise ValueError(
            f"`--tasks` must be those that the model was trained on, {known}, got {[*found]}; an "
            "id with arguments is written as in '[CartPole-v1, {max_episode_steps: 50}]'"
        )
    return [found[name] for name in known]


def _fits(ours: spaces.Space[Any], models: spaces.Space[Any]) -> bool:
    """Say whether spaces agree but for axes that SB3 moved and bounds that a normalizer changed."""
    if isinstance(ours, spaces.Dict) and isinstance(models, spaces.Dict):
        return ours.keys() == models.keys() and all(_fits(ours[k], models[k]) for k in ours)
    if isinstance(ours, spaces.Box) and isinstance(models, spaces.Box):
        return sorted(ours.shape) == sorted(models.shape)
    return ours == models


def watch(options: cli.Watch) -> int:
    """Write a page or a film that shows an agent at play."""
    suffix = options.out.suffix
    if suffix not in (".html", *FILMS):
        raise ValueError(f"`--out` must end in .html, .gif or .mp4, got {options.out}")
    if suffix in FILMS and (options.without or options.table):
        raise ValueError(
            f"`--without` and `--table` must be left out of a film, got {options.out.name}"
        )
    # These raise, if anything is wrong, before anything is played.
    check_writable(options.out.parent)
    model = opened(options)
    if options.table:
        first_network_with_experts(model)
    playing: Any = {"seed": options.seed, "deterministic": not options.stochastic}
    amount: Any = {"episodes": options.episodes, "max_steps": options.max_steps}
    replay = record(model, without=options.without, **amount, **playing)
    if options.table:
        replay.importance = expert_importance(model, episodes=options.table, **playing)
    write = replay.to_video if suffix in FILMS else replay.save
    print(f"{steps_of(replay.runs):,} steps in {write(options.out)}")
    return 0


def card(options: cli.Card) -> int:
    """Write an agent's folder for the Hugging Face Hub, and upload it if asked to."""
    check_folder(options.out, "--out")
    folder = write_folder(
        opened(options),
        options.out,
        episodes=options.episodes,
        seed=options.seed,
        deterministic=not options.stochastic,
        max_steps=options.max_steps,
        license=options.license,
        repo_id=options.push,
    )
    print(f"wrote {folder / 'README.md'}, and what it shows beside it")
    if options.push is not None:
        print(f"uploaded to {push(folder, options.push, private=options.private)}")
    return 0
