"""The one call that builds a VecEnv over several tasks.

Environments beside the training ones in which each copy plays one task for good."""

from __future__ import annotations

import copy
import os
import pickle
from inspect import signature
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    unwrap_vec_normalize,
)
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_moe.layers.checks import whole_or_none
from sb3_moe.layers.classes import did_you_mean
from sb3_moe.vec_env.gymnasium_vec_env import GymnasiumVecEnv
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize
from sb3_moe.vec_env.tasks import task_names


def make_multitask_vec_env(
    tasks: Any,
    n_envs: int | None = None,
    seed: int | None = None,
    *,
    schedule: Any = None,
    task_id: str = "dict",
    monitor_dir: str | os.PathLike[str] | None = None,
    monitor_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> VecEnv:
    """Build a monitored VecEnv over several tasks, in the fastest arrangement that fits them.

    >>> env = make_multitask_vec_env(["CartPole-v1", "Acrobot-v1"], n_envs=4, seed=0)
    >>> env.get_attr("task_names")[0]
    ['CartPole', 'Acrobot']
    >>> env.reset()["task_id"].tolist()
    [0, 0, 1, 1]

    :param tasks: a suite's name, or a list of Gymnasium ids, (id, kwargs) pairs or callables
    :param n_envs: how many environments; None: one per task
    :param seed: of the environments and the schedule, used at the first reset
    :param schedule: which task is played when; None: the suite's own, or all tasks interleaved
    :param task_id: how the task is shown: "dict", "onehot", "channels", "info" or "none"
    :param monitor_dir: folder for monitor.csv; None: no file
    :param monitor_kwargs: for VecMonitor
    :param kwargs: as of :func:`sb3_moe_envs.make_multitask_vector` (``obs_space``, ...)
    :raises TypeError: if there is no such argument
    :raises ValueError: if there are fewer environments than interleaved tasks, or the seed is no
        whole number
    """
    from sb3_moe_envs import MultiTaskVectorEnv, make_multitask_vector
    from sb3_moe_envs.closing import closed_on_error
    from sb3_moe_envs.numbers import optional_whole

    theirs = [*signature(MultiTaskVectorEnv).parameters][1:]
    own = [*signature(make_multitask_vec_env).parameters][:-1]
    for name in kwargs:
        if name not in theirs or name == "num_envs":
            raise TypeError(
                f"make_multitask_vec_env got an unexpected keyword argument {name!r}"
                f"{did_you_mean(name, {*own, *theirs} - {'num_envs'})}"
            )
    n_envs = _number_of_envs(tasks, n_envs, schedule)
    seed = optional_whole("seed", seed, 0)
    env = GymnasiumVecEnv(
        make_multitask_vector(tasks, n_envs, schedule=schedule, task_id=task_id, **kwargs)
    )
    env.built_with = {
        "tasks": tasks,
        "n_envs": n_envs,
        "schedule": schedule,
        "task_id": task_id,
        "monitor_dir": monitor_dir,
        "monitor_kwargs": monitor_kwargs,
        **kwargs,
    }
    env.seed(seed)
    env.action_space.seed(seed)
    with closed_on_error(env.close):
        return _monitored(env, monitor_dir, monitor_kwargs)


def _monitored(
    env: VecEnv, monitor_dir: str | os.PathLike[str] | None, monitor_kwargs: dict[str, Any] | None
) -> VecEnv:
    folder = None if monitor_dir is None else os.fspath(monitor_dir)  # SB3 takes no Path
    if folder is not None:
        os.makedirs(folder, exist_ok=True)
    # The keys are in every info, so each episode that SB3 keeps or writes says whose it is.
    options = dict(monitor_kwargs or {})
    keywords = ("task_id", "task_name", *options.pop("info_keywords", ()))
    return VecMonitor(env, folder, info_keywords=tuple(dict.fromkeys(keywords)), **options)


def _number_of_envs(tasks: Any, n_envs: int | None, schedule: Any) -> int:
    from sb3_moe_envs.multitask import as_schedule
    from sb3_moe_envs.numbers import whole
    from sb3_moe_envs.schedules import Slots
    from sb3_moe_envs.suites import tasks_of

    num_tasks = len(tasks_of(tasks))
    n_envs = num_tasks if n_envs is None else n_envs
    n_envs = whole("n_envs", n_envs)
    if as_schedule(schedule, tasks).slots is Slots.SHARED and n_envs < num_tasks:
        raise ValueError(
            f"`n_envs` must be at least the number of interleaved tasks, {num_tasks}, got {n_envs}"
        )
    return n_envs


# Other numbers, another schedule, and no file over the one of the training environment.
NOT_COPIED = ("n_envs", "schedule", "monitor_dir")
WRAPPERS = (
    VecCheckNan,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)
# More would play few episodes each and cost more time in every step.
MAX_COPIES = 10


def are_interleaved(env: VecEnv) -> bool:
    """Say whether an environment's schedule mixes its tasks, even if one is played at a time.

    :param env: in any wrappers; one without a schedule, or of a single task, interleaves nothing
    """
    from sb3_moe_envs.schedules import Interleave

    if len(task_names(env)) == 1:
        return False
    if env.has_attr("is_interleaved"):  # of ours, whose schedule other processes might not give
        return bool(env.get_attr("is_interleaved")[0])
    return env.has_attr("schedule") and isinstance(env.get_attr("schedule")[0], Interleave)


def make_pinned_env(
    training_env: VecEnv,
    copies: int | None = None,
    seed: int | None = None,
    *,
    render_mode: str | None = None,
) -> VecEnv:
    """Build environments like the training ones, each of which plays one task for good.

    :param training_env: a multi-task environment; it is only asked how it was built
    :param copies: how many environments for each task; None: as many as a task has in training,
        which saves jax from compiling once more
    :param seed: of the environments
    :param render_mode: ``"rgb_array"`` for pictures; None: as in training, but in no window
    :raises TypeError: if ``copies`` is no whole number
    :raises ValueError: if it can't be rebuilt, or ``copies`` is below 1
    """
    from sb3_moe_envs.schedules import Interleave
    from sb3_moe_envs.tasks import only_new

    whole_or_none("copies", copies)
    built_with = _built_with(training_env)
    arguments = {name: value for name, value in built_with.items() if name not in NOT_COPIED}
    arguments["render_mode"] = render_mode or mode_again(arguments.get("render_mode"))
    num_tasks = len(task_names(training_env))
    n_envs = copies * num_tasks if copies else _as_in_training(training_env, num_tasks)
    with only_new():
        env = make_multitask_vec_env(**arguments, n_envs=n_envs, schedule=Interleave(), seed=seed)
    return wrap_like(env, training_env)


def mode_again(render_mode: str | None) -> str | None:
    """Give the ``render_mode`` in which an environment is built once more.

    No second window opens where the first shows what humans see. Any other mode stays, since what
    an environment draws may be what is observed.
    """
    return None if render_mode == "human" else render_mode


def evaluation_copies(training_env: VecEnv, episodes: int) -> int:
    """Return how many copies of each task play a number of episodes.

    As many as episodes, up to ten. Of a task whose copies are stepped one by one, more than there
    are in training would save no time: they cost what it costs to build them. Those in processes
    of their own are no more than there are cores, but one of each task.

    :param training_env: which says how it was built
    :param episodes: of each task
    :raises ValueError: if it doesn't
    """
    from sb3_moe_envs.suites import tasks_of
    from sb3_moe_envs.vector.parts import is_batched
    from sb3_moe_envs.vector.workers import num_cores

    built_with = _built_with(training_env)
    tasks = tasks_of(built_with["tasks"])
    copies = min(episodes, MAX_COPIES)
    if all(is_batched(task) for task in tasks):
        return copies
    copies = min(copies, max(_as_in_training(training_env, len(tasks)) // len(tasks), 1))
    if built_with.get("vectorization") == "async":
        copies = min(copies, max(num_cores() // len(tasks), 1))
    return copies


def not_built_again_since(env: VecEnv) -> str | None:
    """Say why no environment like this one can be built, or None if one can."""
    if getattr(env, "built_with", None) is None:
        return "it doesn't say how it was built"
    return not_wrapped_again_since(env)


def not_wrapped_again_since(env: VecEnv) -> str | None:
    """Say why no other environment can have this one's wrappers, or None if one can."""
    strange = [layer for layer in _layers(env) if not isinstance(layer, WRAPPERS)]
    return f"{type(strange[0]).__name__} around it can't be copied" if strange else None


def _built_with(env: VecEnv) -> dict[str, Any]:
    built_with: dict[str, Any] | None = getattr(env, "built_with", None)
    if built_with is None:
        raise ValueError(
            "the training environment doesn't say how it was built; build it with "
            "sb3_moe.make_multitask_vec_env(tasks), or give MultiTaskEvalCallback an `eval_env`, "
            "with each task in a copy of its own"
        )
    return built_with


def _layers(env: VecEnv) -> list[VecEnvWrapper]:
    """List the wrappers around an environment, outermost first."""
    layers = []
    while isinstance(env, VecEnvWrapper):
        layers.append(env)
        env = env.venv
    return layers


def _as_in_training(env: VecEnv, num_tasks: int) -> int:
    """Count the environments that give each task as many copies as it has in training."""
    # By the schedule: which tasks are played at this moment may be chance.
    shared = are_interleaved(env) and env.num_envs >= num_tasks
    return env.num_envs if shared else env.num_envs * num_tasks


def wrap_like(env: VecEnv, model_env: VecEnv) -> VecEnv:
    """Put an environment into the wrappers of another, with normalisers that learn nothing.

    :param env: to be wrapped
    :param model_env: whose wrappers are copied
    :raises ValueError: if there is a wrapper that can't be copied
    """
    for layer in reversed(_layers(model_env)):
        env = _wrap(env, layer)
    return env


def _wrap(env: VecEnv, layer: VecEnvWrapper) -> VecEnv:
    if not isinstance(layer, WRAPPERS):
        raise ValueError(
            f"`eval_env` must be given, since {type(layer).__name__} around the training "
            "environment can't be copied"
        )
    if isinstance(layer, VecMonitor | VecCheckNan):
        return env
    if isinstance(layer, VecNormalize):
        normaliser: VecNormalize = pickle.loads(pickle.dumps(layer))
        normaliser.set_venv(env)
        normaliser.training = normaliser.norm_reward = False
        return normaliser
    if isinstance(layer, VecTransposeImage):
        return VecTransposeImage(env, skip=layer.skip)
    if isinstance(layer, VecFrameStack):
        stacked = layer.stacked_obs
        return VecFrameStack(env, stacked.n_stack, channels_order=_channels_order(stacked))
    return VecExtractDictObs(env, key=layer.key)


def _channels_order(stacked: StackedObservations[Any]) -> Any:
    """Say where a stack of frames is put together, for each key of a Dict."""
    if isinstance(stacked.observation_space, spaces.Dict):
        parts = stacked.sub_stacked_observations
        return {key: _channels_order(part) for key, part in parts.items()}
    return "first" if stacked.channels_first else "last"


def normalises_observations(normaliser: VecNormalize | None) -> bool:
    """Say whether there is a normaliser, and observations go through it."""
    return normaliser is not None and bool(normaliser.norm_obs)


def kind_of_normaliser(normaliser: VecNormalize) -> str:
    """Say what an environment is normalised by, and which parts of observations."""
    kind = PerTaskVecNormalize if isinstance(normaliser, PerTaskVecNormalize) else VecNormalize
    keys = getattr(normaliser, "norm_obs_keys", None)
    return f"{kind.__name__} of {'all' if keys is None else sorted(keys)}"


def synchronise(training_env: VecEnv, env: VecEnv) -> None:
    """Give an environment's normaliser the statistics of the training one's.

    It learns none of its own from then on, and leaves rewards as they are.

    :raises ValueError: if only one of them normalises, or normalises observations, or they do it
        in different ways
    """
    source, target = unwrap_vec_normalize(training_env), unwrap_vec_normalize(env)
    if (source is None) != (target is None):
        raise ValueError(
            "`eval_env` and the training environment must both be in a VecNormalize, or neither"
        )
    if source is None or target is None:
        return
    if source.norm_obs != target.norm_obs:
        raise ValueError(
            f"`norm_obs` of `eval_env` must be that of the training environment, {source.norm_obs},"
            f" got {target.norm_obs}"
        )
    kinds = [kind_of_normaliser(each) for each in (source, target)]
    if source.norm_obs and kinds[0] != kinds[1]:
        raise ValueError(
            f"`eval_env` must be normalised as the training environment, {kinds[0]}, got {kinds[1]}"
        )
    # There are none of observations that are not normalised.
    names = [name for name in ("obs_rms", "ret_rms") if name in vars(source)]
    vars(target).update(copy.deepcopy({name: vars(source)[name] for name in names}))
    target.training = target.norm_reward = False
