"""The parts of a model that a file holds: arguments, progress, tensors, what callbacks set."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.type_aliases import TrainFreq
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.her import HerReplayBuffer
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from sb3_moe.policies.networks import uncompiled
from sb3_moe.saving.values import Decoder, Encoder, UnsafeFileError
from sb3_moe.vec_env.belief import VecBelief
from sb3_moe.vec_env.past import wrap_inside
from sb3_moe.vec_env.per_task_vec_normalize import PerTaskMeanStd, PerTaskVecNormalize
from sb3_moe.vec_env.task_ids import PAST_KEYS

# Arguments that a file does not decide, such as where to run and where to write.
_NOT_SAVED = frozenset({"policy", "env", "device", "tensorboard_log", "self"})
# Attributes that are named unlike the constructor's arguments, or that `learn` sets.
PROGRESS = (
    "num_timesteps", "n_envs", "_stats_window_size", "_total_timesteps", "_num_timesteps_at_start",
    "_episode_num", "_current_progress_remaining", "_n_updates", "_n_calls", "exploration_rate",
)  # fmt: skip
# Schedules are built from the arguments, but a callback may have replaced them.
SCHEDULES = ("lr_schedule", "exploration_schedule")
#: Attributes that callbacks and `sb3_moe.growing` set on a model, for runs that go on with it.
REMEMBERED = (
    "task_switches", "anchors", "frozen_routers", "initial_weights", "interventions_done",
    "expert_log", "task_trained", "best_models", "new_tasks",
)  # fmt: skip


def argument_names(model: BaseAlgorithm) -> list[str]:
    """Return the arguments of a model's constructors that it keeps under their own names."""
    names = {
        name: None
        for each in type(model).__mro__
        if issubclass(each, BaseAlgorithm)
        for name in signature(each.__init__).parameters
    }
    return [name for name in names if name in vars(model) and name not in _NOT_SAVED]


def makes_own_buffer(model: Any) -> bool:
    """Say whether SB3 itself chose the buffer for n-step returns.

    Then the class must not be passed to SB3 again, which would warn that it ignores ``n_steps``.
    """
    chosen = getattr(model, "replay_buffer_class", None)
    is_dict = isinstance(model.observation_space, spaces.Dict)
    return chosen is NStepReplayBuffer and model.n_steps > 1 and not is_dict


def encode_attributes(encoder: Encoder, model: Any) -> dict[str, Any]:
    """Return the JSON of a model's arguments, progress, schedules and remembered attributes."""
    values = dict(vars(model))
    if isinstance(frequency := values.get("train_freq"), TrainFreq):
        values["train_freq"] = (frequency.frequency, frequency.unit.value)
    if makes_own_buffer(model):
        values["replay_buffer_class"] = None
    return {name: encoder.encode(name, values[name]) for name in _kept(model) if name in values}


def _kept(model: BaseAlgorithm) -> list[str]:
    """Return the names of a model's attributes that a file may hold."""
    return [*argument_names(model), *PROGRESS, *SCHEDULES, *REMEMBERED]


def decode_attributes(
    decoder: Decoder, model: BaseAlgorithm, saved: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values of the attributes that :func:`encode_attributes` encoded.

    :param model: a model whose networks are not built yet, as at the start of SB3's ``load``
    :raises UnsafeFileError: if there is a name that no such model has
    """
    if unknown := set(saved) - set(_kept(model)):
        raise UnsafeFileError(
            f"{min(unknown)[:60]!r} is no attribute that files of {type(model).__name__} hold"
        )
    return {name: decoder.decode(name, value) for name, value in saved.items()}


# Tensors.


def weights_of(model: BaseAlgorithm) -> dict[str, Tensor]:
    """Return every parameter, buffer and other variable that SB3 saves; shared ones once.

    :raises ValueError: if a module's state holds anything but tensors
    """
    named: dict[str, Any] = {}
    modules, variables = model._get_torch_save_params()
    for name in modules:
        if isinstance(part := uncompiled(recursive_getattr(model, name)), nn.Module):
            named |= {f"{name}/{key}": tensor for key, tensor in part.state_dict().items()}
    named |= {name: recursive_getattr(model, name) for name in variables}
    found = {}
    seen = set()
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} can't be saved: it is no tensor but {type(tensor)}")
        # By the storage, not by the address of its data, which tensors on "meta" don't have.
        storage = tensor.untyped_storage()._cdata
        place = (storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        if place not in seen:
            seen.add(place)
            found[name] = tensor.detach()
    return found


def optimizers_of(model: BaseAlgorithm) -> dict[str, th.optim.Optimizer]:
    """Return every optimizer that SB3 saves, by name."""
    parts = {name: recursive_getattr(model, name) for name in model._get_torch_save_params()[0]}
    return {name: part for name, part in parts.items() if isinstance(part, th.optim.Optimizer)}


def set_optimizers(model: BaseAlgorithm, decoder: Decoder, states: Mapping[str, Any]) -> None:
    """Write a file's states into the optimizers of a model that is built.

    :raises KeyError: if the file lacks an optimizer
    """
    for name, optimizer in optimizers_of(model).items():
        state = decoder.decode(name, states[name])
        device = optimizer.param_groups[0]["params"][0].device
        # Torch itself moves only the parameters' states to the device.
        state["param_groups"] = moved(state["param_groups"], device)
        optimizer.load_state_dict(state)


def moved(value: Any, device: th.device | str) -> Any:
    """Move the tensors of a nested value to a device."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), value)


# HerReplayBuffer, which needs the environments to compute rewards for goals.


def is_hindsight(model: Any) -> bool:
    """Say whether a model's replay buffer is to be a HerReplayBuffer."""
    kind = getattr(model, "replay_buffer_class", None)
    return isinstance(kind, type) and issubclass(kind, HerReplayBuffer)


def hindsight_buffer(model: Any, venv: VecEnv | None) -> HerReplayBuffer:
    """Build a HerReplayBuffer as SB3 does; unlike there, environments may still be missing.

    :param model: the model with its arguments, not built yet
    :param venv: its environments; None: until it has some, the model can only predict
    """
    return model.replay_buffer_class(
        model.buffer_size,
        model.observation_space,
        model.action_space,
        env=venv,
        device=model.device,
        n_envs=model.n_envs,
        optimize_memory_usage=model.optimize_memory_usage,
        **model.replay_buffer_kwargs,
    )


# Normalizers: the running statistics of VecNormalize and PerTaskVecNormalize, without pickle.


_KINDS = {kind.__name__: kind for kind in (VecNormalize, PerTaskVecNormalize)}
_SETTINGS = (
    "training", "norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon",
    "norm_obs_keys",
)  # fmt: skip
# The name of the statistics of returns; all others are of observations.
_RETURN = "return"


class WrapperLeftOutWarning(UserWarning):
    """A model that needs its normalizer or its belief was loaded without an environment."""


def is_known(normalizer: VecNormalize) -> bool:
    """Say whether a file can hold a normalizer's statistics: not if it is of a user's own class."""
    return type(normalizer) in _KINDS.values()


def described(normalizer: VecNormalize) -> dict[str, Any]:
    """Return a normalizer's class, settings and statistics as plain values and arrays.

    :param normalizer: as the model's ``get_vec_normalize_env`` returns it
    :raises ValueError: if it is of a class of the user's own
    """
    kind = type(normalizer).__name__
    if not is_known(normalizer):
        raise ValueError(f"`normalizer` must be False for a {kind}, got True")
    return {
        "class": kind,
        "settings": {name: getattr(normalizer, name) for name in _SETTINGS},
        "statistics": {name: _arrays(each) for name, each in _statistics(normalizer).items()},
        "sees_past": bool({*getattr(normalizer.observation_space, "spaces", ())} & PAST_KEYS),
    }


def _statistics(normalizer: Any) -> dict[str, RunningMeanStd | PerTaskMeanStd]:
    """Return a normalizer's running statistics by name."""
    found = {_RETURN: normalizer.ret_rms}
    if normalizer.norm_obs:
        obs = normalizer.obs_rms
        is_dict = isinstance(obs, dict)
        found |= {f"obs/{key}": each for key, each in obs.items()} if is_dict else {"obs": obs}
    return found


def _arrays(statistics: RunningMeanStd | PerTaskMeanStd) -> list[np.ndarray]:
    """Return mean, variance and count; those of tasks have an entry for each task."""
    return [np.array(each) for each in (statistics.mean, statistics.var, statistics.count)]


class SavedNormalizer:
    """A file's normalizer.

    :param saved: what :func:`described` returned
    :raises KeyError: if it is of no known class
    """

    def __init__(self, saved: dict[str, Any]) -> None:
        self._kind = _KINDS[saved["class"]]
        self._settings = {name: saved["settings"][name] for name in _SETTINGS}
        self._sees_past = bool(saved["sees_past"])
        self._statistics = saved["statistics"]

    def wrap(self, venv: VecEnv) -> VecEnv:
        """Wrap environments in a new normalizer with the file's settings.

        It goes inside a VecHistory or VecBelief if the saved normalizer did not see these.
        """

        def normalized(env: VecEnv) -> VecEnv:
            return self._kind(env, **self._settings)

        return normalized(venv) if self._sees_past else wrap_inside(venv, normalized)

    def check(self, normalizer: VecNormalize) -> None:
        """Compare kind, names and shapes with the normalizer that is to get the statistics.

        :raises ValueError: if they differ
        """
        own = {name: np.shape(each.mean) for name, each in _statistics(normalizer).items()}
        saved = {name: mean.shape for name, (mean, *_) in self._statistics.items()}
        if type(normalizer) is not self._kind or own != saved:
            raise ValueError(
                f"`env` is normalized by {type(normalizer).__name__} with statistics of {own}, and "
                f"the file has those of {self._kind.__name__}, {saved}; pass normalizer=False to "
                "keep your own"
            )

    @property
    def sees_observations(self) -> bool:
        """Whether there are statistics of observations, and not of returns alone."""
        return bool(set(self._statistics) - {_RETURN})

    def put_into(self, normalizer: Any) -> None:
        """Give the file's statistics to a normalizer that passed :meth:`check`."""
        for name, each in _statistics(normalizer).items():
            # An array of no axis becomes a number, as SB3 has it.
            each.mean, each.var, each.count = (np.array(a)[()] for a in self._statistics[name])


# Beliefs about a hidden task.


class SavedBelief:
    """A file's belief: its models, and how they learn.

    :param saved: what :func:`described_belief` returned
    """

    def __init__(self, saved: dict[str, Any]) -> None:
        from sb3_moe_envs.belief import BeliefModels

        self._models = BeliefModels.from_state(saved["models"])
        self._learning = {name: saved["learning"][name] for name in VecBelief.LEARNING}
        self._encodes = bool(saved["encodes"])

    def wrap(self, venv: VecEnv) -> VecBelief:
        """Wrap environments in a belief like the file's.

        :raises ValueError: if the file's models see what a function has encoded
        """
        if self._encodes:
            raise ValueError(
                "`env` must be wrapped in a VecBelief with the function `encode` that the saved "
                "model's had, since a file holds no functions"
            )
        return VecBelief(venv, self._models.num_models, **self._learning)

    def put_into(self, wrapper: VecBelief) -> None:
        """Give the file's models to a wrapper.

        :raises ValueError: if they are for other spaces
        """
        wrapper.take(self._models)


def described_belief(wrapper: VecBelief) -> dict[str, Any]:
    """Return a belief's models and how they learn, as plain values and arrays."""
    return {
        "models": wrapper.models.state(),
        "learning": {name: getattr(wrapper, name) for name in VecBelief.LEARNING},
        "encodes": wrapper.numbers.encode is not None,
    }
