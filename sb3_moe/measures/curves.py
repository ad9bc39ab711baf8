"""Scores over time, the blocks in which tasks were trained, and values at and between them.

Shapes: K evaluations, N tasks, M blocks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

Array = npt.NDArray[np.float64]


class Block(NamedTuple):
    """A stretch of training on one task.

    :param task: index of the task
    :param start: global step before its first step
    :param end: global step after its last step
    """

    task: int
    start: float
    end: float


Blocks = Sequence[Block]


class Scores(NamedTuple):
    """What a run's ``scores.npz`` says.

    :param score: mean return of each task at each evaluation, (K, N)
    :param steps: global step of each evaluation, (K,)
    :param trained: task that was trained just before each evaluation, -1 for all, (K,)
    :param task_names: (N,)
    """

    score: Array
    steps: Array
    trained: npt.NDArray[np.int64]
    task_names: list[str]

    @property
    def blocks(self) -> list[Block]:
        """The blocks of training, as far as evaluations tell; none if tasks were interleaved."""
        return blocks_of(self.steps, self.trained)


def load_scores(folder: str | Path) -> Scores:
    """Read the scores of a run from its folder.

    :param folder: where ``MultiTaskEvalCallback`` wrote
    :raises ValueError: if there are none, or the file is damaged or another
    """
    path = Path(folder) / "scores.npz"
    if not path.exists():
        raise ValueError(
            f"{folder} has no scores.npz; train with "
            "MultiTaskEvalCallback(every=..., log_path=folder) to get one"
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            score, steps, trained, names = (file[name] for name in Scores._fields)
    except (BadZipFile, EOFError, KeyError, OSError, ValueError) as error:
        raise ValueError(f"{path} must be what MultiTaskEvalCallback wrote: {error}") from error
    return Scores(score, steps.astype(np.float64), trained, names.tolist())


def blocks_of(steps: ArrayLike, trained: ArrayLike) -> list[Block]:
    """Find the blocks of training from what each evaluation says was trained before it.

    A block ends at its last evaluation: those of ``MultiTaskEvalCallback`` are at every switch.

    :param steps: (K,)
    :param trained: (K,), -1 where all tasks were
    """
    steps_K, trained_K = np.asarray(steps, np.float64), np.asarray(trained)
    blocks: list[Block] = []
    for before, step, task in zip(steps_K[:-1], steps_K[1:], trained_K[1:], strict=True):
        if blocks and blocks[-1].task == task and blocks[-1].end == before:
            blocks[-1] = blocks[-1]._replace(end=float(step))
        elif task >= 0:
            blocks.append(Block(int(task), float(before), float(step)))
    return blocks


def checked(score: ArrayLike, steps: ArrayLike) -> tuple[Array, Array]:
    """Return scores (K, N) and steps (K,) as arrays.

    :raises ValueError: if shapes or order are wrong, or a score is not finite
    """
    score_KN, steps_K = np.asarray(score, np.float64), np.asarray(steps, np.float64)
    if score_KN.ndim != 2 or steps_K.shape != score_KN.shape[:1] or len(steps_K) == 0:
        raise ValueError(
            "`score` must be (evaluations, tasks) and `steps` (evaluations,), got shapes "
            f"{score_KN.shape} and {steps_K.shape}"
        )
    if not np.isfinite(score_KN).all():
        raise ValueError("`score` must be finite; a task was not evaluated at some step")
    if np.any(np.diff(steps_K) <= 0):
        raise ValueError(f"`steps` must rise, got {steps_K.tolist()}")
    return score_KN, steps_K


def score_at(score: ArrayLike, steps: ArrayLike, step: float) -> Array:
    """Return the score of every task at a step, on the line between evaluations, (N,).

    :raises ValueError: if the step is outside of the evaluations
    """
    score_KN, steps_K = checked(score, steps)
    _check_covered(steps_K, step, step)
    return np.array([np.interp(step, steps_K, column) for column in score_KN.T])


def area(score: ArrayLike, steps: ArrayLike, start: float, end: float) -> Array:
    """Return the mean score of every task over a stretch, by the trapezoidal rule, (N,).

    :raises ValueError: if the stretch is empty or outside of the evaluations
    """
    score_KN, steps_K = checked(score, steps)
    if end <= start:
        raise ValueError(f"`end` must be above start={start}, got {end}")
    _check_covered(steps_K, start, end)
    inside = steps_K[(steps_K > start) & (steps_K < end)]
    points = np.concatenate([[start], inside, [end]])
    values = np.array([np.interp(points, steps_K, column) for column in score_KN.T])
    return np.trapezoid(values, points, axis=1) / (end - start)


def block_ends(score: ArrayLike, steps: ArrayLike, blocks: Blocks) -> Array:
    """Return R: the score of every task at the end of every block, (M, N)."""
    return np.stack([score_at(score, steps, block.end) for block in checked_blocks(blocks)])


def checked_blocks(blocks: Blocks) -> Blocks:
    """Return the blocks.

    :raises ValueError: if there are none
    """
    if not blocks:
        raise ValueError(
            "`blocks` must hold at least one block, got none; train with a Cycle or Sequence "
            "schedule, and take them from load_scores(folder).blocks"
        )
    return blocks


def visits(blocks: Blocks, task: int) -> list[Block]:
    """Return the blocks of one task, in order.

    :raises ValueError: if it has none
    """
    mine = [block for block in checked_blocks(blocks) if block.task == task]
    if not mine:
        raise ValueError(f"`blocks` must train every task, but none trains task {task}")
    return mine


def _check_covered(steps_K: Array, start: float, end: float) -> None:
    if start < steps_K[0] or end > steps_K[-1]:
        raise ValueError(
            f"evaluations must cover the steps from {start:g} to {end:g}, but go from "
            f"{steps_K[0]:g} to {steps_K[-1]:g}"
        )


def normalize(returns: ArrayLike, random: ArrayLike, reference: ArrayLike) -> Array:
    """Return (returns - random) / (reference - random).

    :param returns: (..., N)
    :param random: a random agent's mean returns, (N,): see :func:`random_returns`
    :param reference: a reference's mean returns, (N,), each above the random one: see
        :func:`reference_returns`
    :raises ValueError: if a reference is not above random: such a score means nothing
    """
    values, low, high = (np.asarray(v, np.float64) for v in (returns, random, reference))
    if not np.all(high > low):
        raise ValueError(
            f"`reference` must be above `random` for every task, got {high.tolist()} and "
            f"{low.tolist()}; leave out tasks that the reference does not learn"
        )
    return (values - low) / (high - low)


Agent = Literal["random", "reference"]

FILE = Path(__file__).with_name("returns.json")


@cache
def load_measured(agent: Agent) -> Any:
    """Read what was measured, by suite and task: ``mean``, its ``standard_error``, and of what."""
    return json.loads(FILE.read_text())[agent]


def random_returns(suite: str) -> dict[str, float]:
    """Return the mean return of uniformly random actions for each task of a suite, as measured.

    Those of another suite, or of tasks of your own, are played by whatever has a ``predict``:

    >>> import sb3_moe
    >>> from sb3_moe.callbacks import evaluate_tasks
    >>> env = sb3_moe.make_multitask_vec_env("Conflict/CartPole2", seed=0)
    >>> class Random:
    ...     def predict(self, obs, state=None, **kwargs):
    ...         return [env.action_space.sample() for _ in range(env.num_envs)], state
    >>> returns = evaluate_tasks(Random(), env, n_eval_episodes=20).returns.mean(axis=1)
    >>> returns.shape
    (2,)

    :param suite: as ``"MinAtar/MTRL3"``
    :raises ValueError: if it was not measured
    """
    return _means("random", suite)


def reference_returns(suite: str) -> dict[str, float]:
    """Return the mean return, for each task of a suite, of a dense agent trained on it alone.

    ``sb3_moe/measures/returns.json`` says which agent that was.

    :param suite: as ``"MinAtar/MTRL3"``
    :raises ValueError: if it was not measured
    """
    return _means("reference", suite)


def _means(agent: Agent, suite: str) -> dict[str, float]:
    measured = load_measured(agent)
    if suite not in measured:
        raise ValueError(
            f"`suite` must be one of {sorted(measured)}, got {suite!r}; measure others with "
            "sb3_moe.callbacks.evaluate_tasks, as help(sb3_moe.measures.random_returns) shows"
        )
    return {task: each["mean"] for task, each in measured[suite].items()}
