"""Write a model into a file that is safe to open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_moe.is_model import model_of_sb3
from sb3_moe.saving import archive, strict_json
from sb3_moe.saving.arguments import encode_arguments
from sb3_moe.saving.classes import algorithm_name, is_custom, policy_name
from sb3_moe.saving.networks import encode_optimizers, weights_of
from sb3_moe.saving.normalizer import encode_normalizer
from sb3_moe.saving.reading_back import check_readable
from sb3_moe.saving.remembered import encode_remembered
from sb3_moe.saving.replay import encode_replay_buffer, replay_buffer_of
from sb3_moe.saving.spaces import encode_space
from sb3_moe.saving.tensors import pack
from sb3_moe.saving.values import Encoder
from sb3_moe.saving.versions import versions
from sb3_moe.vec_env.tasks import tasks_known

FORMAT = "sb3_moe model"
FORMAT_VERSION = 1
#: The most bytes that a file says of its model, besides arrays.
MAX_JSON = 2**20


def save(
    model: BaseAlgorithm,
    path: str | Path,
    *,
    replay_buffer: bool = False,
    normalizer: bool = True,
) -> None:
    """Write a model into a file that :func:`sb3_moe.load` opens without running anything in it.

    Weights, optimisers, arguments, spaces, schedules, step counts, what callbacks remember of
    task switches, anchors and frozen routers, and ``expert_log``, as JSON and safetensors in a
    zip; nothing is pickled. Not saved: the environment, the current rollout, the log's window of
    episodes, ``tensorboard_log``, and attributes of an algorithm of your own that are none of its
    arguments. Classes and functions of your own are named in the file;
    ``load`` takes them as ``custom_objects``.

    :param model: of any algorithm of SB3 or sb3-contrib that this package has policies for, with
        ours or SB3's own policy
    :param path: the file; a name without an ending gets ``.moe``. An older one is replaced when the
        new one is whole
    :param replay_buffer: with the replay buffer's transitions
    :param normalizer: with the statistics of the model's VecNormalize, if it has one
    :raises TypeError: if ``model`` is no model
    :raises ValueError: if ``path`` ends in .zip, or something of the model can't be written so
    """
    model_of_sb3(model)
    path = Path(path)
    if path.suffix.lower() == ".zip":
        raise ValueError(
            f"`path` must not end in .zip, which SB3's `load` would open, got {str(path)!r}: leave "
            "the ending out, or use .moe"
        )
    normalised_by = model.get_vec_normalize_env() if normalizer else None
    entries, _ = entries_of(model, replay_buffer, normalised_by)
    archive.write_archive(archive.as_written(path), entries)


def entries_of(
    model: BaseAlgorithm, replay_buffer: bool, normalizer: VecNormalize | None
) -> tuple[dict[str, bytes], set[str]]:
    """Return a file's entries by name, and the names that ``custom_objects`` must give.

    :param model: as in :func:`save`
    :param replay_buffer: as in :func:`save`
    :param normalizer: whose statistics are saved
    :raises ValueError: as :func:`save` does
    """
    encoder = Encoder()
    optimizers, states = encode_optimizers(encoder, model)
    state: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": versions(),
        "algorithm": algorithm_name(type(model)),
        "policy": policy_name(type(model), model.policy_class),
        "observation_space": encode_space(encoder, model.observation_space),
        "action_space": encode_space(encoder, model.action_space),
        "tasks": tasks_known(model),
        **encode_arguments(encoder, model),
        "optimizers": optimizers,
        "replay_buffer": None,
        "normalizer": normalizer and encode_normalizer(encoder, normalizer),
        "remembered": encode_remembered(encoder, model),
    }
    more = {}
    if replay_buffer:
        state["replay_buffer"], rows = encode_replay_buffer(replay_buffer_of(model))
        more[archive.REPLAY_BUFFER] = pack(rows)
    classes = (state["algorithm"], state["policy"])
    own = {*encoder.own, *(each["custom"] for each in classes if is_custom(each))}
    said = strict_json.dumps(state)
    if len(said) > MAX_JSON:
        raise ValueError(
            f"a model's arguments must take at most {MAX_JSON:,} bytes as JSON, and these take "
            f"{len(said):,}: give long ones as arrays"
        )
    check_readable(model, said, encoder, states)
    entries = {
        archive.MODEL: said,
        archive.ARRAYS: pack(encoder.arrays),
        archive.WEIGHTS: pack(weights_of(model)),
        archive.OPTIMIZERS: pack(states),
        **more,
    }
    return entries, own


def own_classes(model: BaseAlgorithm) -> dict[str, Any]:
    """Return the user's own classes and functions that a file of a model names, by name.

    :param model: as in :func:`save`
    """
    encoder = Encoder()
    encode_arguments(encoder, model)
    own = dict(encoder.own)
    algorithm = algorithm_name(type(model))
    policy = policy_name(type(model), model.policy_class)
    for named, kind in ((algorithm, type(model)), (policy, model.policy_class)):
        if is_custom(named):
            own[named["custom"]] = kind
    return own
