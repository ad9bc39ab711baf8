"""Scores over time, the blocks in which tasks were trained, and metrics of continual learning.

Each metric's name says which variant it is. Metrics expect normalized scores (see
:func:`normalize`); p_i(t) is the score of task i at global step t, T is the last step.

Shapes: K evaluations, N tasks, M blocks of training, V visits of one task.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
    """The scores in a run's ``scores.npz``.

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
    :raises ValueError: if there are none, or the file is damaged or holds something else
    """
    path = Path(folder) / "scores.npz"
    if not path.exists():
        raise ValueError(f"{folder} has no scores.npz; train with MultiTaskEvalCallback")
    try:
        with np.load(path, allow_pickle=False) as file:
            score, steps, trained, names = (file[name] for name in Scores._fields)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{path} must be what MultiTaskEvalCallback wrote: {error}") from error
    return Scores(score, steps.astype(np.float64), trained, names.tolist())


def blocks_of(steps: ArrayLike, trained: ArrayLike) -> list[Block]:
    """Find the blocks of training from the task that was trained before each evaluation.

    A block ends at its last evaluation: ``MultiTaskEvalCallback`` evaluates at every task switch.

    :param steps: (K,)
    :param trained: (K,), -1 where all tasks were trained
    """
    steps_K = np.asarray(steps, np.float64).tolist()
    trained_K = np.asarray(trained).tolist()
    blocks: list[Block] = []
    for (before, step), task in zip(pairwise(steps_K), trained_K[1:], strict=True):
        if blocks and blocks[-1].task == task and blocks[-1].end == before:
            blocks[-1] = blocks[-1]._replace(end=step)
        elif task >= 0:
            blocks.append(Block(task, before, step))
    return blocks


def checked(score: ArrayLike, steps: ArrayLike) -> tuple[Array, Array]:
    """Return scores (K, N) and steps (K,) as arrays.

    :raises ValueError: if shapes or order are wrong, or a score is not finite
    """
    score_KN = np.asarray(score, np.float64)
    steps_K = np.asarray(steps, np.float64)
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
    """Return every task's score at a step, linearly interpolated between evaluations, (N,).

    :raises ValueError: if the step is outside of the evaluations
    """
    return _scores_at(score, steps, [step])[:, 0]


def _scores_at(score: ArrayLike, steps: ArrayLike, points: Sequence[float]) -> Array:
    """Return every task's scores at rising steps, (N, points)."""
    score_KN, steps_K = checked(score, steps)
    start = points[0]
    end = points[-1]
    low = steps_K[0]
    high = steps_K[-1]
    if start < low or end > high:
        raise ValueError(f"evaluations must cover {start:g} to {end:g}, but go {low:g} to {high:g}")
    return np.array([np.interp(points, steps_K, column) for column in score_KN.T])


def area(score: ArrayLike, steps: ArrayLike, start: float, end: float) -> Array:
    """Return the mean score of every task over a range of steps, by the trapezoidal rule, (N,).

    :raises ValueError: if the range is outside of the evaluations
    """
    points = [start, *(step for step in np.asarray(steps) if start < step < end), end]
    return np.trapezoid(_scores_at(score, steps, points), points, axis=1) / (end - start)


def block_ends(score: ArrayLike, steps: ArrayLike, blocks: Blocks) -> Array:
    """Return R: the score of every task at the end of every block, (M, N)."""
    return np.stack([score_at(score, steps, block.end) for block in checked_blocks(blocks)])


def checked_blocks(blocks: Blocks) -> Blocks:
    """Return the blocks.

    :raises ValueError: if there are none
    """
    if not blocks:
        raise ValueError("`blocks` must not be empty: use a Cycle or Sequence, not Interleave")
    return blocks


def visits(blocks: Blocks, task: int) -> list[Block]:
    """Return the blocks of one task, in order.

    :raises ValueError: if it has none
    """
    mine = [block for block in checked_blocks(blocks) if block.task == task]
    if not mine:
        raise ValueError(f"`blocks` must train every task, but none trains task {task}")
    return mine


def normalize(returns: ArrayLike, random: ArrayLike, reference: ArrayLike) -> Array:
    """Return (returns - random) / (reference - random).

    :param returns: (..., N)
    :param random: a random agent's mean returns, (N,): see :func:`random_returns`
    :param reference: a reference's mean returns, (N,), each above the random one: see
        :func:`reference_returns`
    :raises ValueError: if a reference is not above random: the result would mean nothing
    """
    values, low, high = (np.asarray(v, np.float64) for v in (returns, random, reference))
    if not np.all(high > low):
        raise ValueError(f"`reference` must be above `random` everywhere, got {high} and {low}")
    return (values - low) / (high - low)


Agent = Literal["random", "reference"]

FILE = Path(__file__).with_name("returns.json")


@cache
def load_measured(agent: Agent) -> Any:
    """Read an agent's returns by suite and task: ``mean``, ``standard_error`` and their origin."""
    return json.loads(FILE.read_text())[agent]


def random_returns(suite: str) -> dict[str, float]:
    """Return the mean return of uniformly random actions for each task of a suite, as measured.

    For another suite, or tasks of your own, let any object with a ``predict`` play them:

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
        raise ValueError(f"`suite` must be one of {sorted(measured)}, got {suite!r}")
    return {task: each["mean"] for task, each in measured[suite].items()}


# Metrics of continual learning.

Reference = Mapping[int, tuple[ArrayLike, ArrayLike]]


def average_performance(score: ArrayLike, steps: ArrayLike, window: int = 1) -> float:
    """Return P(T), the mean score over tasks at the end (Continual World, arXiv 2105.10919).

    :param score: (K, N)
    :param steps: (K,)
    :param window: how many of the last evaluations to average over; Continual World takes 5
    """
    score_KN, _ = checked(score, steps)
    return float(score_KN[-window:].mean())


def forgetting_per_task(score: ArrayLike, steps: ArrayLike, blocks: Blocks) -> Array:
    """Return F_i = p_i(end of task i's last block) - p_i(T), (N,).

    Its mean is the forgetting of Continual World (arXiv 2105.10919); COOM's leaves out the task
    that was trained last, ``blocks[-1].task``.
    """
    return _at_own_ends(score, steps, blocks) - np.asarray(score, np.float64)[-1]


def _at_own_ends(score: ArrayLike, steps: ArrayLike, blocks: Blocks) -> Array:
    """Return each task's score at the end of its last block, (N,)."""
    tasks = range(np.shape(score)[1])
    return np.array([score_at(score, steps, visits(blocks, k)[-1].end)[k] for k in tasks])


def forgetting_isolated(score: ArrayLike, steps: ArrayLike, blocks: Blocks) -> Array:
    """Return how much each block took from each task (CORA, arXiv 2110.10067), (M, N).

    Entry (j, i) is task i's score before block j minus its score after it, divided by its largest
    absolute score in the run: positive where task i was forgotten, negative where it gained. NaN
    for a task whose scores are all 0.
    """
    score_KN, steps_K = checked(score, steps)
    before = np.stack([score_at(score_KN, steps_K, b.start) for b in checked_blocks(blocks)])
    largest = np.abs(score_KN).max(0)
    lost = before - block_ends(score_KN, steps_K, blocks)
    return np.divide(lost, largest, out=np.full_like(lost, np.nan), where=largest > 0)


def forward_transfer_per_task(
    score: ArrayLike, steps: ArrayLike, blocks: Blocks, reference: Reference
) -> Array:
    """Return FT_i = (AUC_i - AUC_i^b) / (1 - AUC_i^b) over each task's first block, (N,).

    AUC_i is the :func:`area` of this run there, and AUC_i^b that of the reference over as many
    steps from its start. NaN where the reference's is 1 or more, which leaves no room to be better.
    The mean of FT_i is the forward transfer of Continual World (arXiv 2105.10919).

    :param score: (K, N)
    :param steps: (K,)
    :param blocks: of training
    :param reference: for each task, the scores (K',) and steps (K',) of a run on it alone,
        normalized as ``score`` is
    :raises ValueError: if a reference is missing, or ends before the task's first block is over
    """
    score_KN, steps_K = checked(score, steps)
    result = []
    for task in range(score_KN.shape[1]):
        block = visits(blocks, task)[0]
        mine = area(score_KN, steps_K, block.start, block.end)[task]
        if task not in reference:
            raise ValueError(f"`reference` must hold (score, steps) of task {task} alone")
        scores, its_steps = reference[task]
        length = block.end - block.start
        alone = area(np.reshape(scores, (-1, 1)), its_steps, 0.0, length)[0]
        result.append((mine - alone) / (1.0 - alone) if alone < 1.0 else np.nan)
    return np.array(result)


def backward_transfer_gem(score: ArrayLike, steps: ArrayLike, blocks: Blocks) -> float:
    """Return the mean over i < N of R_{N,i} - R_{i,i} (GEM, arXiv 1706.08840).

    R_{j,i} is the score of task i after task j; tasks are numbered in the order in which they were
    trained last. NaN if there is only one.
    """
    gains_N = block_ends(score, steps, blocks)[-1] - _at_own_ends(score, steps, blocks)
    others = np.delete(gains_N, blocks[-1].task)
    return float(others.mean()) if len(others) else float("nan")


def zero_shot_transfer_gem(
    score: ArrayLike, steps: ArrayLike, blocks: Blocks, random: ArrayLike | float = 0.0
) -> float:
    """Return the mean over i >= 2 of R_{i-1,i} - b_i: what earlier tasks give an untrained one.

    R_{j,i} is the score of task i after task j; tasks are numbered in the order in which they were
    trained first. NaN if there is only one (arXiv 1706.08840).

    :param score: (K, N)
    :param steps: (K,)
    :param blocks: of training
    :param random: b_i, a random agent's score, (N,); 0 for normalized scores
    """
    score_KN, steps_K = checked(score, steps)
    random_N = np.broadcast_to(np.asarray(random, np.float64), score_KN.shape[1:])
    gains = []
    seen = {checked_blocks(blocks)[0].task}
    for before, block in pairwise(blocks):
        if block.task not in seen:
            untrained_N = score_at(score_KN, steps_K, before.end)
            gains.append((untrained_N - random_N)[block.task])
        seen.add(block.task)
    return float(np.mean(gains)) if gains else float("nan")
