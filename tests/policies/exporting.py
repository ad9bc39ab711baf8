"""Policies as SB3's page on exporting puts them into another format, and what comes out there."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import arena
import cases
import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

ANY = th.export.Dim("batch", min=1, max=10**6)
HIDDEN = 12


class Deployed(nn.Module):
    """From an observation, given key by key, to what SB3's policy says of it.

    :param policy: of any algorithm; a recurrent one also takes the states of its two LSTMs
    :param keys: of a Dict observation; empty: a single array
    """

    def __init__(self, policy: Any, keys: list[str]) -> None:
        super().__init__()
        self.policy, self.keys = policy, keys

    def forward(self, *parts: th.Tensor) -> Any:
        """Return actions; on-policy also values and log-probabilities, then the new states."""
        n = max(len(self.keys), 1)
        obs: Any = dict(zip(self.keys, parts, strict=False)) if self.keys else parts[0]
        if not parts[n:]:
            return self.policy(obs, deterministic=True)
        from sb3_contrib.common.recurrent.type_aliases import RNNStates

        h, c, vf_h, vf_c = parts[n:]
        starts = th.zeros_like(h[0, :, 0])
        *said, after = self.policy(obs, RNNStates((h, c), (vf_h, vf_c)), starts, deterministic=True)
        return (*said, *after.pi, *after.vf)


def deployed(case: cases.Case) -> Deployed:
    """Build a case's policy with weights of some size, ready to be exported."""
    model = cases.make(case)
    policy = model.policy
    th.manual_seed(0)
    for parameter in policy.parameters():
        parameter.data.normal_(std=0.5)
    space = model.observation_space
    # Whole, since ONNX's export puts what it is given back into the mode that it was in.
    return Deployed(policy, list(space.spaces) if isinstance(space, spaces.Dict) else []).eval()


def inputs(network: Deployed, n: int) -> tuple[th.Tensor, ...]:
    """Return n observations (and states), as the policy takes them."""
    policy = network.policy
    obs = policy.obs_to_tensor(arena.observe(policy, n))[0]
    parts = tuple(obs[key] for key in network.keys) if network.keys else (obs,)
    if hasattr(policy, "lstm_actor"):
        parts += tuple(th.randn(4, 1, n, HIDDEN).unbind())
    return parts


def exported(network: Deployed) -> Callable[..., Any]:
    """Return the policy as ``torch.export`` records it from four observations."""
    parts = inputs(network, 4)
    shapes = {"parts": tuple({0: ANY} for _ in parts)}
    program: Any = th.export.export(network, parts, dynamic_shapes=shapes).module()
    return program  # type: ignore[no-any-return]


def onnx_file(network: Deployed) -> bytes:
    """Return the policy as ONNX, recorded from four observations."""
    parts = inputs(network, 4)
    names = [f"in{i}" for i in range(len(parts))]
    # What an LSTM remembers has its layers first, and then the batch.
    num_obs = max(len(network.keys), 1)
    axes = {name: {int(i >= num_obs): "batch"} for i, name in enumerate(names)}
    file = io.BytesIO()
    th.onnx.export(
        network, parts, file, dynamo=False, opset_version=17, input_names=names, dynamic_axes=axes
    )
    return file.getvalue()


def in_reference(network: Deployed) -> Callable[..., Any]:
    """Return the policy's file as ONNX's slow reference runs it."""
    import onnx
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class GatherElements(OpRun):  # type: ignore[misc]
        """The reference's own refuses a negative axis where sizes differ."""

        def _run(self, data: Any, indices: Any, axis: int | None = None) -> Any:
            return (np.take_along_axis(data, indices, axis=axis or 0),)

    model = onnx.load_from_string(onnx_file(network))
    onnx.checker.check_model(model)
    evaluator = ReferenceEvaluator(model, new_ops=[GatherElements])
    return _run(evaluator.input_names, evaluator.run)


def in_onnxruntime(network: Deployed) -> Callable[..., Any]:
    """Return the policy's file as onnxruntime runs it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file(network))
    return _run([each.name for each in session.get_inputs()], session.run)


def _run(names: list[str], runner: Callable[..., Any]) -> Callable[..., Any]:
    def run(*parts: th.Tensor) -> Any:
        given = {f"in{i}": part.numpy() for i, part in enumerate(parts)}
        # What a policy doesn't look at is no input of its file.
        # Its sigmoid takes the exponential of large numbers.
        with np.errstate(over="ignore"):
            return runner(None, {name: given[name] for name in names})

    return run


def assert_says_the_same(recorded: Callable[..., Any], network: Deployed) -> None:
    """Compare at other batch sizes than the recorded one, one by one and together."""
    for n in (1, 3):
        parts = inputs(network, n)
        with th.no_grad():
            ours, theirs = network(*parts), recorded(*parts)
        ours, theirs = (x if isinstance(x, list | tuple) else (x,) for x in (ours, theirs))
        for mine, other in zip(ours, theirs, strict=True):
            th.testing.assert_close(th.as_tensor(other), mine, rtol=1e-4, atol=1e-4)
