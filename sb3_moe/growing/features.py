"""Where each number of an observation stands among the features that two extractors make of it."""

from __future__ import annotations

from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import CombinedExtractor
from torch import nn

from sb3_moe.policies.extractors import TaskExtractor
from sb3_moe.vec_env.task_ids import TASK_KEY

# Features of which no more is known than how many there are.
WHOLE = ""


def pieces(extractor: nn.Module, space: spaces.Space[object]) -> dict[str, range]:
    """Return the columns of each part of the observation, by key; all together where that is all.

    :param extractor: of features
    :param space: of observations
    """
    sizes = _sizes(extractor, space)
    found, start = {}, 0
    for key, size in sizes.items():
        found[key] = range(start, start + size)
        start += size
    return found


def _sizes(extractor: nn.Module, space: spaces.Space[object]) -> dict[str, int]:
    total = int(extractor.features_dim)  # type: ignore[arg-type]  # of SB3's extractors
    if isinstance(extractor, TaskExtractor):
        return _of_task_extractor(extractor, space, total)
    if isinstance(extractor, CombinedExtractor) and isinstance(space, spaces.Dict):
        flat = all(isinstance(each, nn.Flatten) for each in extractor.extractors.values())
        if flat:
            return {key: get_flattened_obs_dim(space[key]) for key in extractor.extractors}
    return {WHOLE: total}


def _of_task_extractor(
    extractor: TaskExtractor, space: spaces.Space[object], total: int
) -> dict[str, int]:
    num_tasks = extractor.num_tasks
    if extractor.image_keys or not isinstance(space, spaces.Dict):
        sizes = {WHOLE: total - num_tasks}
    else:
        sizes = {key: get_flattened_obs_dim(space[key]) for key in extractor.flat_keys}
    return sizes | ({TASK_KEY: num_tasks} if num_tasks else {})


def columns(old: dict[str, range], new: dict[str, range]) -> list[int]:
    """Return the new column of each old one; a task id that joins has columns of its own.

    :param old: of :func:`pieces`
    :param new: the same
    :raises ValueError: if an old part is missing in the new ones
    """
    olds, news = _named_alike(old, new)
    found: list[int] = []
    for key, at in olds.items():
        if key not in news or len(news[key]) != len(at):
            got = len(news[key]) if key in news else 0
            raise ValueError(
                f"`task_input` must let the new layers see all that the dense ones see: "
                f"{len(at)} features of {key or 'the observation'!r}, got {got}"
            )
        found += news[key]
    return found


def _named_alike(
    old: dict[str, range], new: dict[str, range]
) -> tuple[dict[str, range], dict[str, range]]:
    """Give parts that correspond the same key, where one side has no more than a whole."""
    rests = [{k: at for k, at in each.items() if k != TASK_KEY} for each in (old, new)]
    if WHOLE in old and len(old) == 1 and TASK_KEY in new and len(old[WHOLE]) == _width(new):
        return old, {WHOLE: range(_width(new))}  # the one-hot was there, at the end
    if any(WHOLE in rest for rest in rests) or all(len(rest) == 1 for rest in rests):
        return _joined(old), _joined(new)
    return old, new


def _joined(parts: dict[str, range]) -> dict[str, range]:
    """Name all but the task id as one."""
    rest = [at for key, at in parts.items() if key != TASK_KEY]
    whole = range(min(at.start for at in rest), max(at.stop for at in rest))
    return {WHOLE: whole} | {k: at for k, at in parts.items() if k == TASK_KEY}


def _width(parts: dict[str, range]) -> int:
    return sum(map(len, parts.values()))
