"""Whether the networks of a study can be built, found out before any cell starts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_moe.measures import policy_activations
from sb3_moe.study.run.learner import build_env, build_model
from sb3_moe.study.run.starting import begin_with, take_over
from sb3_moe.study.spec.algorithms import is_off_policy
from sb3_moe.study.spec.arguments import arguments_of
from sb3_moe.study.spec.callbacks import build_callbacks
from sb3_moe.study.spec.config import CellConfig

# PPO wants more than one sample to a rollout, whatever `n_steps` is.
COPIES = 2
# Transitions that a replay buffer has room for.
SMALL = 100


def check_networks(cells: Sequence[CellConfig]) -> None:
    """Build the algorithm with each architecture, in the spaces of all games, and let it act once.

    :param cells: of one study, one at least
    :raises ValueError: naming the architecture, and why it can't be built, or the actions that the
        algorithm can't take
    """
    from sb3_moe_envs.schedules import Cycle

    architectures = {cell.architecture.name: cell for cell in cells}
    games = cells[0].games
    env = build_env(cells[0], COPIES, 0, Cycle(1, order=games[:1]))
    try:
        check_spaces(cells[0], env)
        built: dict[str, BaseAlgorithm] = {}
        for name, cell in architectures.items():
            try:
                built[name] = _build(cell, env)
                callbacks = _callbacks(cell)
                _check_start(cell, built)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise ValueError(f"architecture {name!r} can't be built: {reason}") from error
            for callback in callbacks:
                _check_callback(callback, built[name], name)
    finally:
        env.close()


def _check_start(cell: CellConfig, built: Mapping[str, BaseAlgorithm]) -> None:
    """Try what a network will begin with, where it is there already.

    :param built: new models of the networks so far, which starts are among: they come first
    """
    start = cell.architecture.start_from
    if start is None:
        return
    model = built[cell.architecture.name]
    if start.model is not None:
        begin_with(model, cell, Path(start.model))
    elif start.architecture is not None and start.architecture in built:
        take_over(model, built[start.architecture], start, cell.architecture.name)


def _build(cell: CellConfig, env: VecEnv) -> BaseAlgorithm:
    arguments = arguments_of(cell)
    if is_off_policy(cell.algorithm):
        # What it would hold isn't needed, and may be more than there is room for.
        arguments["buffer_size"] = SMALL
    with warnings.catch_warnings():
        # That a batch is larger than a rollout is so with two copies only.
        warnings.simplefilter("ignore")
        model = build_model(cell, env, device="cpu", **arguments)
    # Some policies can be built in spaces that they can't see.
    obs: Any = model.observation_space.sample()
    model.predict(obs)
    policy: Any = model.policy
    if isinstance(model, OnPolicyAlgorithm) and not hasattr(model, "_last_lstm_states"):
        with th.no_grad():  # what a rollout calls
            policy(policy.obs_to_tensor(obs)[0])
    policy_activations(policy, obs)  # which every run measures from its first step on
    return model


def _callbacks(cell: CellConfig) -> list[BaseCallback]:
    with TemporaryDirectory() as folder:
        return build_callbacks([*cell.callbacks, *cell.architecture.callbacks], Path(folder))


def _check_callback(callback: BaseCallback, model: BaseAlgorithm, architecture: str) -> None:
    """Ask a callback that can say it, the user's own too, whether it takes the model.

    No more of it is called: at the model's step 0 it might find the files of a run that goes on.
    """
    check = getattr(callback, "check_model", None)
    if not callable(check):
        return
    try:
        check(model)
    except Exception as error:  # the user's own may raise anything
        why = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"architecture {architecture!r} can't have {type(callback).__name__}: {why} (the "
            "study's `callbacks` are for every architecture, its own for it alone)"
        ) from error


def check_spaces(cell: CellConfig, env: VecEnv) -> None:
    """Raise unless an algorithm takes the actions of the tasks.

    :raises ValueError: naming it and the actions
    """
    try:
        build_model(cell, env, device="cpu", _init_setup_model=False)
    except AssertionError as error:
        raise ValueError(f"`algorithm` {cell.algorithm} can't be trained here: {error}") from error
