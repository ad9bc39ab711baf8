"""``sb3-moe watch`` and ``card``: the agent of a file, in the environment that it knows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.integrations.hub import check_folder, push, write_folder
from sb3_moe.saving.files import check_writable
from sb3_moe.saving.model_file import load
from sb3_moe.saving.normalizer import NormalizerLeftOutWarning
from sb3_moe.study.building import algorithm_class, entry_of, game_id, read_tasks
from sb3_moe.study.entries import imported, read_yaml
from sb3_moe.vec_env.make import make_multitask_vec_env
from sb3_moe.vec_env.tasks import names_on
from sb3_moe.watching.films import FILMS
from sb3_moe.watching.importance import expert_importance, network_that_acts
from sb3_moe.watching.recording import watch as record
from sb3_moe.watching.replays import steps_of
from sb3_moe_envs import SUITES
from sb3_moe_envs.suites import tasks_of

if TYPE_CHECKING:
    from sb3_moe_cli import AgentOptions, Card, Watch

#: How observations may show which task is on.
SHOWN = ("dict", "onehot", "channels", "info")


def opened(options: AgentOptions) -> BaseAlgorithm:
    """Open the model twice: its spaces say how the tasks are shown to it.

    :param options: of the command line
    :raises ValueError: if no task is named, or they aren't the model's
    """
    if not options.tasks:
        raise ValueError("`--tasks` must name a suite or Gymnasium ids, got none")
    # A single observation is no work for two, who wait for each other on a busy machine.
    th.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NormalizerLeftOutWarning)
        space = _load(options, None).observation_space
    return _load(options, env_for(options.tasks, space))


def _load(options: AgentOptions, env: Any) -> BaseAlgorithm:
    path = options.model
    if path.suffix != ".zip":
        own = {each.partition(":")[2]: imported(each, "--custom") for each in options.custom}
        # A buffer would be of as many environments as it was trained in.
        return load(path, env, device="cpu", custom_objects=own)
    if not options.trust:
        raise ValueError(
            f"{path.name} is SB3's file, which can run code when it is opened: say --trust if it "
            "is your own"
        )
    try:
        return algorithm_class(options.algorithm).load(path, env, device="cpu")
    except Exception as error:  # where another algorithm's parts are taken, it can be anything
        raise ValueError(
            f"{path.name} can't be opened as a model of {options.algorithm} "
            f"({type(error).__name__}: {error}); `--algorithm` must be the one that it is of"
        ) from error


def env_for(words: Sequence[str], space: spaces.Space[Any]) -> VecEnv | gym.Env[Any, Any]:
    """Build the environment that shows tasks as a model saw them, in the order that it knows.

    :param words: a suite's name, or ids, ids with arguments as in a study's file, or
        ``module:callable``
    :param space: the model's observations
    :raises ValueError: if nothing fits, or can be built
    """
    tasks = _in_order(words, space)
    if not isinstance(tasks, str) and len(tasks) == 1 and tasks[0].env_id and not names_on(space):
        alone = tasks[0].make()  # by whose id the agent's card calls it
        if alone.observation_space == space:
            return alone
        alone.close()
    for shown in SHOWN:
        try:
            env = make_multitask_vec_env(tasks, task_id=shown)
        except ValueError:
            if shown == SHOWN[-1]:  # that adds nothing: the environment itself can't be built
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
    """Put tasks into the order in which a model knows them, if its observations say it.

    A suite in its own order stays a name, by which the agent's card calls it.

    :raises ValueError: if they are others
    """
    known = names_on(space)
    if known is not None and sorted(map(game_id, words)) == sorted(map(game_id, known)):
        return read_tasks(known)  # a study's games, by short names or full ids
    entries = [read_yaml(word) if word.startswith("[") else word for word in words]
    is_suite = len(words) == 1 and words[0] in SUITES
    tasks = words[0] if is_suite else [entry_of(each, "--tasks") for each in entries]
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
    """Say whether a model's observations are ours, whatever SB3 or a normalizer made of them."""
    if isinstance(ours, spaces.Dict) and isinstance(models, spaces.Dict):
        return ours.keys() == models.keys() and all(_fits(ours[k], models[k]) for k in ours)
    if isinstance(ours, spaces.Box) and isinstance(models, spaces.Box):
        return sorted(ours.shape) == sorted(models.shape)
    return ours == models


def watch(options: Watch) -> int:
    """Write a page or a film on which an agent plays."""
    suffix = options.out.suffix
    if suffix not in (".html", *FILMS):
        raise ValueError(f"`--out` must end in .html, .gif or .mp4, got {options.out}")
    if suffix in FILMS and (options.without or options.table):
        raise ValueError(
            "`--without` and `--table` must be left out where `--out` is a film, which shows the "
            f"agent as it is, got {options.out.name}"
        )
    # What is wrong shows before anything is played.
    check_writable(options.out.parent)
    model = opened(options)
    if options.table:
        network_that_acts(model)
    playing: Any = {"seed": options.seed, "deterministic": not options.stochastic}
    amount: Any = {"episodes": options.episodes, "max_steps": options.max_steps}
    replay = record(model, without=options.without, **amount, **playing)
    if options.table:
        replay.importance = expert_importance(model, episodes=options.table, **playing)
    write = replay.to_video if suffix in FILMS else replay.save
    print(f"{steps_of(replay.runs):,} steps in {write(options.out)}")
    return 0


def card(options: Card) -> int:
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
