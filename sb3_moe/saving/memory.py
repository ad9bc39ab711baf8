"""How much memory the model that a file describes may take while it is built."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_action_dim, get_obs_shape
from torch.utils._python_dispatch import TorchDispatchMode

from sb3_moe.saving.errors import UnsafeFileError
from sb3_moe.saving.hindsight import is_hindsight

# Building makes networks, their experts one by one, and then stacks them.
_TIMES_WEIGHTS = 16
_MAX_TENSORS = 50_000
_FEW_TENSORS = 2_000
# Where the size stands among the arguments of what makes tensors.
_SIZE_AT = {
    **dict.fromkeys(("empty", "zeros", "ones", "full", "rand", "randn", "empty_strided"), 0),
    **dict.fromkeys(("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"), 1),
}
# SB3-contrib's sizes of an LSTM, whose states a rollout keeps.
_LSTM = {"n_lstm_layers": 1, "lstm_hidden_size": 256}
# What HerReplayBuffer keeps of each step: where its episode is, and an empty dict for the info.
_HINDSIGHT = 112
_AS_FIRST = frozenset({"empty_like", "zeros_like", "ones_like", "full_like", "clone"})
# Where the first factor stands.
_PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}
_COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
_BROADCASTS = _COMPARISONS | {"add", "sub", "mul", "div", "maximum", "minimum", "where"}


def check_counts(model: Any) -> None:
    """Refuse sizes of buffers that are no counts, before anything is multiplied by them.

    :raises UnsafeFileError: naming the first
    """
    steps = "buffer_size" if isinstance(model, OffPolicyAlgorithm) else "n_steps"
    counts = {name: getattr(model, name, None) for name in ("n_envs", steps)}
    lstm = {name: model.policy_kwargs[name] for name in _LSTM if name in model.policy_kwargs}
    for name, value in {**counts, **lstm}.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise UnsafeFileError(f"its `{name}` must be an int of at least 1, got {value!r:.60}")


def buffer_bytes(model: Any) -> int:
    """Return about how many bytes a model's buffer will take, at most.

    :param model: with arguments, not built yet
    """
    obs, action = _bytes(model.observation_space), 8 * max(get_action_dim(model.action_space), 1)
    if isinstance(model, OffPolicyAlgorithm):
        row = 2 * obs + action + 40 + (_HINDSIGHT if is_hindsight(model) else 0)
        return int(max(model.buffer_size, model.n_envs) * row)
    kwargs = model.policy_kwargs
    lstm = 16 * math.prod(kwargs.get(name, default) for name, default in _LSTM.items())
    masks = 4 * (_num_actions(model.action_space) if "Maskable" in type(model).__name__ else 0)
    recurrent = lstm if "Recurrent" in type(model).__name__ else 0
    return model.n_steps * model.n_envs * (obs + action + 48 + masks + recurrent)


def check_buffer(model: Any, max_bytes: int) -> int:
    """Return about how many bytes a model's buffer will take.

    :raises UnsafeFileError: if they are more than ``max_bytes``
    """
    check_counts(model)
    size = buffer_bytes(model)
    if size > max_bytes:
        name = "buffer_size" if isinstance(model, OffPolicyAlgorithm) else "n_steps"
        raise UnsafeFileError(
            f"its `{name}` of {getattr(model, name)} means about {size} bytes of buffers and "
            f"`max_bytes` is {max_bytes}: pass max_bytes={2 * size} if you have them"
        )
    return size


def _bytes(space: spaces.Space[Any]) -> int:
    if isinstance(space, spaces.Dict):
        return sum(map(_bytes, space.spaces.values()))
    shape = get_obs_shape(space)
    assert isinstance(shape, tuple)
    itemsize = 8 if space.dtype is None else space.dtype.itemsize
    return math.prod(map(int, shape)) * itemsize


def _num_actions(space: spaces.Space[Any]) -> int:
    match space:
        case spaces.Discrete():
            return int(space.n)
        case spaces.MultiDiscrete():
            return sum(map(int, space.nvec.flat))
        case spaces.MultiBinary():
            return 2 * math.prod(space.shape)
    return 0


class BuildingLimit(TorchDispatchMode):
    """Stops the building of networks that take more memory than their weights warrant.

    A few bytes of a file (``net_arch=[1000000000]``) must not take memory; the sizes are looked at
    before a tensor is made. What is computed on the way may be gone again, so that each result is
    looked at by itself: products and broadcasts can be far larger than what they are of.

    :param weight_bytes: of the file's weights, header included
    :param max_bytes: of :func:`sb3_moe.load`
    :param besides: bytes that are made besides, of buffers that are tensors
    """

    def __init__(self, weight_bytes: int, max_bytes: int, besides: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.limit = max(_TIMES_WEIGHTS * weight_bytes, max_bytes // 16) + besides
        # However small an expert is, it has more numbers than tensors are made for it.
        self.max_tensors = min(_FEW_TENSORS + weight_bytes // 4, _MAX_TENSORS)
        self.largest = max(self.limit, max_bytes // 2)
        self.bytes = self.tensors = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what is about to be made, and make it.

        :raises UnsafeFileError: if it is too much
        """
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        result = _result_bytes(name, args)
        if result > self.largest:
            raise UnsafeFileError(
                f"building its networks takes more memory than its weights warrant ({result} bytes "
                f"in one step, of {self.largest}): pass a larger max_bytes if it is yours"
            )
        numel = _numel(name, args)
        if numel is not None:
            self.tensors += 1
            self.bytes += numel * (kwargs.get("dtype") or th.get_default_dtype()).itemsize
            if self.bytes > self.limit or self.tensors > self.max_tensors:
                raise UnsafeFileError(
                    "building its networks takes more memory than its weights warrant "
                    f"({self.bytes} bytes in {self.tensors} tensors, of {self.limit} in "
                    f"{self.max_tensors}): pass a larger max_bytes if it is yours"
                )
        return func(*args, **kwargs)


def _numel(name: str, args: Any) -> int | None:
    """Return how many numbers a call makes; None if it makes no new tensor from sizes."""
    if name in _SIZE_AT:
        return math.prod(map(int, args[_SIZE_AT[name]]))
    if name in _AS_FIRST:
        return int(args[0].numel())
    if name == "eye":
        return math.prod(int(n) for n in args[:2]) if len(args) > 1 else int(args[0]) ** 2
    return None


def _result_bytes(name: str, args: Any) -> int:
    """Return the size of a product, or of what several tensors are broadcast to; 0 for others."""
    if name in _PRODUCTS:
        left, right = args[_PRODUCTS[name] : _PRODUCTS[name] + 2]
        numbers = math.prod(left.shape[:-1]) * right.shape[-1]
        return int(numbers * left.element_size())
    tensors = [each for each in args if isinstance(each, th.Tensor)]
    if name not in _BROADCASTS or len(tensors) < 2:
        return 0
    numbers = math.prod(th.broadcast_shapes(*(each.shape for each in tensors)))
    compares = name in _COMPARISONS
    return numbers * (1 if compares else max(each.element_size() for each in tensors))
