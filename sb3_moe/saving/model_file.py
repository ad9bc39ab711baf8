"""Save models in files that are safe to open, and load them, whoever wrote the file."""

import copy
import importlib.metadata
import io
import math
import platform
import warnings
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import check_for_correct_spaces, get_device
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecNormalize,
    VecTransposeImage,
    unwrap_vec_normalize,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sb3_moe.layers.shares import tensors_of
from sb3_moe.saving import model_parts
from sb3_moe.saving.files import write_file
from sb3_moe.saving.model_parts import (
    SavedBelief,
    SavedNormalizer,
    described,
    described_belief,
    is_known,
)
from sb3_moe.saving.values import Decoder, Encoder, UnsafeFileError, blaming, pack, unpack
from sb3_moe.vec_env.belief import belief_of
from sb3_moe.vec_env.tasks import check_tasks, tasks_known, write_names

__version__ = importlib.metadata.version("sb3-moe")
#: The default of `max_bytes`: the most memory that a file may ask for.
MAX_BYTES = 2**30
#: The file of a run's model: one that is safe to open, or SB3's zip if that can't hold the model.
SAFE = "model.moe"
PICKLED = "model.zip"
_FORMAT = {"format": "sb3_moe model", "format_version": 1}
_PACKAGES = ("stable-baselines3", "sb3-contrib", "torch", "gymnasium", "numpy")
# Prefixes of the names of tensors in a file.
_ARRAYS = "arrays/"
_WEIGHTS = "weights/"
# Limits of the torch calls that build the networks: the first, plus one call for each weight in
# the file, but at most the second. Experts are built one by one, and each has a weight there.
_FEW_CALLS = 5_000
_MOST_CALLS = 100_000
# How many bytes a policy may hold besides the weights in its file, such as masks and tables.
_BESIDES = 2**26


def versions() -> dict[str, str]:
    """Return the versions of this package, of the packages that it depends on, and of Python."""
    found = {"sb3_moe": __version__, "python": platform.python_version()}
    there = (package for package in _PACKAGES if find_spec(package.replace("-", "_")))
    return found | {package: importlib.metadata.version(package) for package in there}


def save(model: BaseAlgorithm, path: str | Path, *, normalizer: bool = True) -> None:
    """Write a model into a file that :func:`sb3_moe.load` opens without running anything in it.

    The file holds weights, optimizers, arguments, spaces, schedules, step counts, what callbacks
    remember of task switches, anchors and frozen routers, and ``expert_log``, as safetensors with
    JSON; nothing is pickled. Not saved: the environment, the current rollout, the replay buffer,
    the log's window of episodes, ``tensorboard_log``, and attributes of an algorithm of your own
    that are not arguments of its constructor. Classes and functions of your own are named in the
    file; ``load`` takes them as ``custom_objects``.

    :param model: of any algorithm of SB3 or sb3-contrib that this package has policies for, with
        ours or SB3's own policy
    :param path: the file; a name without an ending gets ``.moe``. An older one is replaced when the
        new one is whole
    :param normalizer: whether to save the statistics of the model's VecNormalize, if it has one
    :raises ValueError: if ``path`` ends in .zip, or a part of the model can't be saved in this way
    :raises OSError: naming the file, if it can't be written
    """
    path = Path(path)
    if path.suffix.lower() == ".zip":
        raise ValueError(
            f"`path` must not end in .zip, which SB3's `load` would open, got {str(path)!r}: leave "
            "the ending out, or use .moe"
        )
    normalized_by = model.get_vec_normalize_env() if normalizer else None
    data, _ = packed(model, normalized_by)
    write_file(_with_ending(path), data)


def packed(model: BaseAlgorithm, normalizer: VecNormalize | None) -> tuple[bytes, dict[str, Any]]:
    """Return a file's contents, and the objects that ``custom_objects`` must give, by name.

    :param model: as in :func:`save`
    :param normalizer: whose statistics are saved
    :raises ValueError: as :func:`save` does
    """
    encoder = Encoder()
    belief = belief_of(model.get_env())
    optimizers = model_parts.optimizers_of(model)
    aliases = type(model).policy_aliases.items()
    alias = next((name for name, each in aliases if each is model.policy_class), None)
    state = {
        **_FORMAT,
        "versions": versions(),
        "algorithm": encoder.encode("algorithm", type(model)),
        "policy": alias or encoder.encode("policy", model.policy_class),
        "observation_space": encoder.encode("observation_space", model.observation_space),
        "action_space": encoder.encode("action_space", model.action_space),
        "tasks": tasks_known(model),
        "attributes": model_parts.encode_attributes(encoder, model),
        "optimizers": {n: encoder.encode(n, each.state_dict()) for n, each in optimizers.items()},
        "normalizer": normalizer and encoder.encode("normalizer", described(normalizer)),
        "belief": belief and encoder.encode("belief", described_belief(belief)),
    }
    weights = model_parts.weights_of(model)
    parts = {_ARRAYS: encoder.tensors, _WEIGHTS: weights}
    tensors = {part + name: each for part in parts for name, each in parts[part].items()}
    return pack(state, tensors), encoder.own


def write_model(model: BaseAlgorithm, folder: Path) -> bool:
    """Write ``model.moe``, or SB3's ``model.zip`` if loading that would need ``custom_objects``.

    A model that :func:`save` refuses is also written as ``model.zip``.

    :param model: of any kind
    :param folder: where the file goes; ``model.moe`` includes the statistics of the model's
        VecNormalize if it can hold them
    :return: whether the file is safe to open
    :raises OSError: naming the file, if it can't be written
    """
    normalizer = model.get_vec_normalize_env()
    kept = normalizer if normalizer is not None and is_known(normalizer) else None
    with suppress(ValueError):  # `save` raises the same for this model
        data, own = packed(model, kept)
        if not own:
            write_file(folder / SAFE, data)
            return True
    zipped = io.BytesIO()  # in memory first: torch raises another error on a full disk
    model.save(zipped)
    write_file(folder / PICKLED, zipped.getvalue())
    return False


def load(
    path: str | Path,
    env: GymEnv | str | None = None,
    *,
    device: th.device | str = "auto",
    custom_objects: Mapping[str, Any] | None = None,
    normalizer: bool = True,
    max_bytes: float = MAX_BYTES,
) -> Any:
    """Return the model in a file that :func:`sb3_moe.save` wrote, even from an untrusted source.

    No code in the file is run, and of the classes that it names only those on a fixed list are
    imported. The model's sizes are compared with the file's before memory is allocated. If loading
    fails, ``env`` stays as it was. As in SB3's ``load``, the random generators are seeded with the
    model's seed, episodes begin anew, and the replay buffer is empty. To replace an argument of the
    algorithm, such as ``learning_rate``, use SB3's own ``save`` and ``load``.

    >>> import tempfile, sb3_moe
    >>> from stable_baselines3 import PPO
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sb3_moe.save(PPO("MoeMlpPolicy", "CartPole-v1"), f"{folder}/agent.moe")
    ...     model = sb3_moe.load(f"{folder}/agent.moe", "CartPole-v1")
    >>> type(model).__name__, model.policy.get_expert("pi", 0) is not None
    ('PPO', True)

    :param path: the file, with its ending ``.moe`` or without
    :param env: the environment to go on training in, or its id; None: the model can predict, and
        train after ``set_env`` (and after a HerReplayBuffer's own ``set_env``). Without an
        environment, statistics that normalize observations and the models of a belief are left out,
        with a :class:`sb3_moe.saving.WrapperLeftOutWarning`
    :param device: as in SB3's ``load``
    :param custom_objects: the classes and functions of your own that the file names, by name
    :param normalizer: give the file's running statistics to the VecNormalize of ``env``, or wrap
        ``env`` in a new one
    :param max_bytes: the most bytes that the file may have, and that the model's buffers may take
    :raises UnsafeFileError: if the file is damaged or of another kind, or does not fit together
    :raises ValueError: if ``env`` has other spaces, other tasks or the same in another order, or
        another kind of normalizer
    :raises RuntimeError: if torch has no such ``device``
    :raises TypeError: if ``custom_objects`` holds anything but classes and functions
    """
    th.empty(0, device=get_device(device))
    for name, value in (custom_objects or {}).items():
        if not callable(value):
            raise TypeError(
                "`custom_objects` must hold classes and functions, by the names that the file has "
                f"for them, got {name!r}; SB3's own `save` and `load` replace other arguments"
            )
    path = Path(path)
    if not path.is_file():  # a folder may have the model's name
        path = _with_ending(path)
    with path.open("rb") as file:
        with blaming(path):
            saved = _SavedModel(*unpack(file, max_bytes), custom_objects, device, normalizer)
        saved.take_environment(env)
        with blaming(path):
            saved.build(max_bytes)
    if env is None:
        saved.warn_of_wrappers(path.name)
    return saved.with_environment()


def _with_ending(path: Path) -> Path:
    """Return a path with the ending ``.moe`` if it has none, as SB3 adds ``.zip``."""
    return path if path.suffix else Path(f"{path}.moe")


class _SavedModel:
    """The contents of a file, and its model, whose networks are built by :meth:`build`.

    :param state: the file's plain values
    :param tensors: the file's tensors by name
    :param custom: the user's own classes and functions, by name
    :param device: as in SB3's ``load``
    :param normalizer: whether the environment's normalizer gets the file's statistics
    :raises UnsafeFileError: if the contents describe no model
    """

    def __init__(
        self,
        state: dict[str, Any],
        tensors: Mapping[str, Tensor],
        custom: Mapping[str, Any] | None,
        device: Any,
        normalizer: bool,
    ) -> None:
        if state != state | _FORMAT:
            raise UnsafeFileError(f"its format is not {_FORMAT}")
        arrays, self._weights = (
            {name[len(part) :]: each for name, each in tensors.items() if name.startswith(part)}
            for part in (_ARRAYS, _WEIGHTS)
        )
        self._state = state
        self._decoder = Decoder(arrays, custom or {})
        self._venv: VecEnv | None = None
        algorithm = self._decoded("algorithm")
        alias = state["policy"]
        is_alias = isinstance(alias, str)
        policy = algorithm.policy_aliases[alias] if is_alias else self._decoded("policy")
        self.model = algorithm(policy, env=None, device=device, _init_setup_model=False)
        values = model_parts.decode_attributes(self._decoder, self.model, state["attributes"])
        spaces = {name: self._decoded(name) for name in ("observation_space", "action_space")}
        vars(self.model).update(values | spaces)
        # Building the model overwrites these.
        lasting = (*model_parts.SCHEDULES, *model_parts.REMEMBERED)
        self._put_back = {name: values[name] for name in lasting if name in values}
        if state["tasks"] is not None:
            write_names(self.model.observation_space, list(map(str, state["tasks"])))
        found = self._decoded("normalizer")
        self.normalizer: Any = SavedNormalizer(found) if normalizer and found else None
        self.belief = SavedBelief(self._decoded("belief")) if state["belief"] else None

    def _decoded(self, name: str) -> Any:
        return self._decoder.decode(name, self._state[name])

    def take_environment(self, env: Any) -> None:
        """Check that environments fit, and wrap them in a normalizer if the file has one.

        :param env: as in :func:`load`
        :raises ValueError: if the environments don't fit
        """
        if env is None:
            return
        wrap = type(self.model)._wrap_env
        venv = wrap(maybe_make_env(env, verbose=0))
        check_tasks(self._state["tasks"], venv)
        if self.belief is not None and belief_of(venv) is None:
            venv = self.belief.wrap(venv)
        if self.normalizer is not None and unwrap_vec_normalize(venv) is None:
            # SB3 transposes images last, so the normalizer goes inside that wrapper.
            turned = venv is not env and isinstance(venv, VecTransposeImage)
            venv = wrap(self.normalizer.wrap(venv.venv if turned else venv))
        check_for_correct_spaces(venv, self.model.observation_space, self.model.action_space)
        if self.normalizer is not None:
            self.normalizer.check(unwrap_vec_normalize(venv))
        self._venv = venv

    def build(self, max_bytes: float) -> None:
        """Build the model's networks, without environments.

        :param max_bytes: the most that its buffers may take
        :raises UnsafeFileError: if parts of the file don't fit
        """
        model = self.model
        model.n_envs = model.n_envs if self._venv is None else self._venv.num_envs
        _check_sizes(model, self._weights, max_bytes)
        _setup(model, self._venv)
        vars(model).update(self._put_back)
        with th.no_grad():
            for name, tensor in model_parts.weights_of(model).items():
                tensor.copy_(self._weights[name])
        model_parts.set_optimizers(model, self._decoder, self._state["optimizers"])
        if model.use_sde:
            model.policy.reset_noise()

    def warn_of_wrappers(self, name: str) -> None:
        """Warn that what observations need is left out, if the file has any.

        :param name: the file's name
        """
        normalizes = self.normalizer is not None and self.normalizer.sees_observations
        parts = ["the statistics by which observations were normalized"] * normalizes
        parts += ["the models of the belief in observations"] * (self.belief is not None)
        if parts:
            warnings.warn(
                f"{name} has {' and '.join(parts)}, and without an `env` they are left out: give "
                "one, or for statistics normalizer=False if you normalize yourself",
                model_parts.WrapperLeftOutWarning,
                stacklevel=3,
            )

    def with_environment(self) -> Any:
        """Return the model with its environments, whose normalizer gets the file's statistics."""
        model = self.model
        if self._venv is not None:
            model.set_env(self._venv)
            if model.seed is not None:
                self._venv.seed(model.seed)
            if self.normalizer is not None:
                self.normalizer.put_into(unwrap_vec_normalize(self._venv))
            wrapper = belief_of(self._venv)
            if self.belief is not None and wrapper is not None:
                self.belief.put_into(wrapper)
        return model


def _setup(model: Any, venv: VecEnv | None) -> None:
    if model_parts.is_hindsight(model):
        model.replay_buffer = model_parts.hindsight_buffer(model, venv)
    model._setup_model()


def _check_sizes(model: Any, weights: Mapping[str, Tensor], max_bytes: float) -> None:
    """Build a model that takes no memory, and compare it with the file and with ``max_bytes``.

    :param model: the model with its arguments, not built yet
    :param weights: the weights in the file
    :param max_bytes: the most that the buffer may take
    :raises UnsafeFileError: if the networks don't fit the weights, or the buffer is too large
    """
    is_off_policy = isinstance(model, OffPolicyAlgorithm)
    counted = "buffer_size" if is_off_policy else "n_steps"
    counts = {name: getattr(model, name) for name in ("n_envs", counted)}
    sketch = copy.copy(model)
    vars(sketch).update(dict.fromkeys(counts, 1), device=th.device("meta"))
    with warnings.catch_warnings(action="ignore"), th.device("meta"), _Sketching(weights):
        _setup(sketch, None)
    _check_forms(model_parts.weights_of(sketch), weights)
    held = sum(tensor.nbytes for tensor in tensors_of(sketch.policy))
    if held > sum(tensor.nbytes for tensor in weights.values()) + _BESIDES:
        raise UnsafeFileError(f"its policy takes {held} bytes, more than its weights")
    buffer = sketch.replay_buffer if is_off_policy else sketch.rollout_buffer
    row = sum(getattr(each, "nbytes", 0) for each in tree_leaves(vars(buffer)))
    size = row * (max(counts.values()) if is_off_policy else math.prod(counts.values()))
    if size > max_bytes:
        raise UnsafeFileError(
            f"its `{counted}` of {counts[counted]} needs buffers of about {size} bytes and "
            f"`max_bytes` is {max_bytes}: pass max_bytes={2 * size} if you have the memory"
        )


def _check_forms(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Compare names, dtypes and shapes of tensors.

    :param own: as the model has them
    :param found: as the file has them
    :raises UnsafeFileError: naming a difference
    """
    ours, theirs = (
        {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in each.items()}
        for each in (own, found)
    )
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            raise UnsafeFileError(
                f"its policy has {name[:60]!r} as {theirs.get(name)} where the model has "
                f"{ours.get(name)}"
            )


class _Sketching(TorchDispatchMode):
    """Keep tensors on the device "meta", where they take no memory, and limit the number of calls.

    :param weights: the weights in the file, whose size sets the limit
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        numbers = sum(tensor.numel() for tensor in weights.values())
        self._calls_left = min(_FEW_CALLS + numbers, _MOST_CALLS)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a torch function on the device "meta".

        :raises UnsafeFileError: if there are too many calls
        """
        self._calls_left -= 1
        if self._calls_left < 0:
            raise UnsafeFileError("its networks have more parts than its weights could fill")
        if func is th.ops.aten._local_scalar_dense.default:
            return 1  # meta tensors hold no number to return; checks want True
        kwargs = kwargs or {}
        if kwargs.get("device"):  # SB3 asks for the CPU, whatever the default device is
            kwargs["device"] = th.device("meta")
        return func(*args, **kwargs)
