"""Build a VecEnv over several tasks, and others like it from the recipe that it keeps."""

import copy
import os
import pickle
from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.vec_env import (
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
    unwrap_vec_normalize,
)
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from sb3_moe.layers.checks import whole_or_none
from sb3_moe.vec_env.belief import VecBelief, belief_of
from sb3_moe.vec_env.gymnasium_vec_env import GymnasiumVecEnv
from sb3_moe.vec_env.past import VecHistory
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskVecNormalize
from sb3_moe.vec_env.tasks import task_names

# Wrappers that `wrap_like` can copy to another environment. It leaves out the first two, which
# change no observations or rewards.
WRAPPERS = (
    VecMonitor, VecCheckNan, VecBelief, VecFrameStack, VecHistory, VecNormalize, VecTransposeImage
)  # fmt: skip
# More environments of a task would play few episodes each and cost more time in every step.
MAX_COPIES = 10


def make_multitask_vec_env(
    tasks: Any,
    n_envs: int | None = None,
    seed: int | None = None,
    *,
    schedule: Any = None,
    task_id: str = "dict",
    history: int | None = None,
    belief: int | dict[str, Any] | None = None,
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

    Around it, give SB3's VecNormalize ``norm_obs_keys=["obs"]``, which leaves out the task id.

    :param tasks: a suite's name, or a list of Gymnasium ids, (id, kwargs) pairs or callables
    :param n_envs: how many environments; None: one per task
    :param seed: of the environments and the schedule, used at the first reset; a model's own seed
        takes its place
    :param schedule: which task is played when; None: the suite's own, or all tasks interleaved
    :param task_id: how the task is shown: "dict", "onehot", "channels", "info" or "none"
    :param history: how many steps of the episode are shown beside each observation, by a
        :class:`~sb3_moe.vec_env.VecHistory`; None: no history
    :param belief: how many models a :class:`~sb3_moe.vec_env.VecBelief` has as the outermost
        wrapper, or a dict of all its arguments; None: no belief
    :param monitor_dir: folder for monitor.csv; None: no file
    :param monitor_kwargs: for VecMonitor
    :param kwargs: as in :func:`sb3_moe_envs.make_multitask_vector` (``invalid_action``, ...)
    """
    from sb3_moe_envs import make_multitask_vector

    whole_or_none("n_envs", n_envs)
    kwargs |= {"schedule": schedule, "task_id": task_id}
    env = GymnasiumVecEnv(make_multitask_vector(tasks, n_envs, **kwargs))
    # Without `monitor_dir`: an environment built from the recipe must not overwrite that file.
    own = {"tasks": tasks, "n_envs": n_envs, "monitor_kwargs": monitor_kwargs}
    env.recipe = own | kwargs
    if seed is not None:  # SB3 would draw one from numpy's generator, on which training depends
        env.seed(int(seed))
        env.action_space.seed(int(seed))
    options = dict(monitor_kwargs or {})
    # Every info has these two keys, so each episode that SB3 keeps or writes names its task.
    keywords = dict.fromkeys(("task_id", "task_name", *options.pop("info_keywords", ())))
    file = None
    if monitor_dir is not None:
        os.makedirs(monitor_dir, exist_ok=True)
        file = os.fspath(monitor_dir)  # SB3 takes no Path
    shown: VecEnv = VecMonitor(env, file, info_keywords=tuple(keywords), **options)
    if history is not None:
        shown = VecHistory(shown, history)
    if belief is not None:
        arguments = dict(belief) if isinstance(belief, Mapping) else {"num_models": belief}
        shown = VecBelief(shown, **{"seed": seed, **arguments})
    return shown


def make_pinned_env(
    training_env: VecEnv,
    copies: int | None = None,
    seed: int | None = None,
    *,
    render_mode: str | None = None,
) -> VecEnv:
    """Build environments like the training ones, each of which plays one task for good.

    :param training_env: of :func:`sb3_moe.make_multitask_vec_env`; it is neither reset nor stepped
    :param copies: how many environments for each task; None: as many as a task has in training,
        so that jax need not compile again
    :param seed: of the environments
    :param render_mode: ``"rgb_array"`` for images; None: as in training, but without a window
    :raises TypeError: if ``copies`` is no whole number
    :raises ValueError: if ``training_env`` can't be rebuilt, or ``copies`` is below 1
    """
    from sb3_moe_envs.schedules import Interleave

    whole_or_none("copies", copies)
    recipe = _recipe_of(training_env)
    num_tasks = len(task_names(training_env))
    own = {
        "n_envs": copies * num_tasks if copies else _as_in_training(training_env, num_tasks),
        "schedule": Interleave(),
        "seed": seed,
        "render_mode": render_mode or render_mode_for_copy(recipe.get("render_mode")),
    }
    return wrap_like(make_multitask_vec_env(**(recipe | own)), training_env)


def render_mode_for_copy(render_mode: str | None) -> str | None:
    """Return the ``render_mode`` with which to build an environment once more.

    ``"human"`` becomes None, so that no second window opens. Any other mode stays, since the images
    of an environment may be its observations.
    """
    return None if render_mode == "human" else render_mode


def evaluation_copies(training_env: VecEnv, episodes: int) -> int:
    """Return how many environments of each task an evaluation should use.

    As many as episodes, up to ten. If environments are stepped one by one, each task gets no more
    than it has in training, since more would save no time.

    :param training_env: of :func:`sb3_moe.make_multitask_vec_env`
    :param episodes: number of episodes of each task
    :raises ValueError: if ``training_env`` can't be rebuilt
    """
    from sb3_moe_envs.suites import tasks_of
    from sb3_moe_envs.vector.parts import is_batched

    tasks = tasks_of(_recipe_of(training_env)["tasks"])
    copies = min(episodes, MAX_COPIES)
    if all(is_batched(task) for task in tasks):
        return copies
    return max(min(copies, _as_in_training(training_env, len(tasks)) // len(tasks)), 1)


def are_interleaved(env: VecEnv) -> bool:
    """Say whether an environment's schedule mixes its tasks, even if one is played at a time.

    :param env: in any wrappers; without a schedule, or with a single task, the answer is False
    """
    several = len(task_names(env)) > 1 and env.has_attr("is_interleaved")
    return several and bool(env.get_attr("is_interleaved")[0])


def why_not_rebuildable(env: VecEnv) -> str | None:
    """Return why no other environment like this one can be built; None if one can."""
    if getattr(env, "recipe", None) is None:
        return "make_multitask_vec_env didn't build it"
    return why_not_rewrappable(env)


def why_not_rewrappable(env: VecEnv) -> str | None:
    """Return why this environment's wrappers can't be copied to another one; None if they can."""
    while isinstance(env, VecEnvWrapper):
        if not isinstance(env, WRAPPERS):
            return f"{type(env).__name__} around it can't be copied"
        env = env.venv
    return None


def _recipe_of(env: Any) -> dict[str, Any]:
    if why := why_not_rebuildable(env):
        raise ValueError(
            f"`eval_env` must be given where training's environment can't be built again: {why}; "
            "sb3_moe.make_multitask_vec_env(tasks) builds one that can"
        )
    return env.recipe


def _as_in_training(env: VecEnv, num_tasks: int) -> int:
    """Return how many environments to build so that each task has as many as in training."""
    # The schedule decides this, since it may be chance which tasks are played at the moment.
    shared = are_interleaved(env) and env.num_envs >= num_tasks
    return env.num_envs if shared else env.num_envs * num_tasks


def wrap_like(env: VecEnv, model_env: VecEnv) -> VecEnv:
    """Put copies of another environment's wrappers around an environment.

    Copies of normalizers keep their statistics, but don't update them.

    :param env: the environment to wrap
    :param model_env: the one whose wrappers are copied; see :func:`why_not_rewrappable`
    """
    if not isinstance(model_env, VecEnvWrapper):
        return env
    env = wrap_like(env, model_env.venv)
    match model_env:
        case VecNormalize():
            normalizer: VecNormalize = pickle.loads(pickle.dumps(model_env))
            normalizer.set_venv(env)
            normalizer.training = normalizer.norm_reward = False
            return normalizer
        case VecTransposeImage():
            return VecTransposeImage(env, skip=model_env.skip)
        case VecHistory():
            return VecHistory(env, model_env.length)
        case VecBelief():
            belief = VecBelief(env, encode=model_env.numbers.encode, training=False)
            belief.use(model_env.models)
            return belief
        case VecFrameStack():
            stacked = model_env.stacked_obs
            return VecFrameStack(env, stacked.n_stack, channels_order=_channels_order(stacked))
    return env


def _channels_order(stacked: StackedObservations) -> Any:
    """Return the ``channels_order`` of a VecFrameStack, for each key of a Dict."""
    if isinstance(stacked.observation_space, spaces.Dict):
        parts = stacked.sub_stacked_observations
        return {key: _channels_order(part) for key, part in parts.items()}
    return "first" if stacked.channels_first else "last"


def _kind(normalizer: VecNormalize | None) -> str:
    """Say which normalizer observations have, and for which of their parts."""
    if normalizer is None or not normalizer.norm_obs:
        return "nothing"
    kind = PerTaskVecNormalize if isinstance(normalizer, PerTaskVecNormalize) else VecNormalize
    keys = getattr(normalizer, "norm_obs_keys", None)
    return f"{kind.__name__} of {'all' if keys is None else sorted(keys)}"


def synchronize(training_env: VecEnv, env: VecEnv) -> None:
    """Let an environment normalize as the training environment does, and use its belief's models.

    That one then no longer updates either, and leaves rewards as they are.

    :raises ValueError: if the two normalize observations in different ways, or only one does; or if
        their beliefs differ
    """
    beliefs = belief_of(training_env), belief_of(env)
    if beliefs[0] is not None and beliefs[1] is not None:
        beliefs[1].use_models_of(beliefs[0])
    source = unwrap_vec_normalize(training_env)
    target = unwrap_vec_normalize(env)
    if _kind(source) != _kind(target):
        cure = "wrap it in the same way"
        if why_not_rebuildable(training_env) is None:
            cure = "make_pinned_env(model.get_env()) builds such an environment"
        raise ValueError(
            f"`env` must be normalized as in training, by {_kind(source)}, got {_kind(target)}; "
            f"{cure}"
        )
    if target is None or target is source:
        return
    for name in ("obs_rms", "ret_rms"):
        if hasattr(source, name):  # without normalized observations there is no `obs_rms`
            setattr(target, name, copy.deepcopy(getattr(source, name)))
    target.training = target.norm_reward = False
