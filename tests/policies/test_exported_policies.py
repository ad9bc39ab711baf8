"""Every policy put into other formats as SB3's page on exporting says: the outputs are equal."""

import io

import arena
import cases
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

ANY = th.export.Dim("batch", min=1, max=10**6)
HIDDEN = 12
EVERY = [case for case in cases.every_case() if case.algorithm != "RecurrentPPO"]
RECURRENT = [case for case in cases.every_case() if case.algorithm == "RecurrentPPO"]
# Those whose policies are another algorithm's are left out.
OTHERS = [case for case in EVERY if case.algorithm not in ("A2C", "TRPO", "DDPG")]
COVER, PAIRS = cases.each_value(OTHERS), cases.pairwise(OTHERS)
# Behind experts that encode images, a Gaussian's mean and deviation are split and joined again.
SPLIT = cases.Case("SAC", "MoeCnnPolicy", "big", "uniform", "sample")
NO_BRANCHES = "Could not guard on data-dependent expression"


class Deployed(nn.Module):
    """From an observation, given key by key, to what SB3's policy says of it.

    A recurrent policy also takes the states of its two LSTMs, and returns the new ones.
    """

    def __init__(self, model):
        super().__init__()
        self.policy, space = model.policy, model.observation_space
        self.keys = list(space.spaces) if isinstance(space, spaces.Dict) else []

    def forward(self, *parts):
        n = max(len(self.keys), 1)
        obs = dict(zip(self.keys, parts, strict=False)) if self.keys else parts[0]
        if not parts[n:]:
            return self.policy(obs, deterministic=True)
        from sb3_contrib.common.recurrent.type_aliases import RNNStates

        h, c, vf_h, vf_c = parts[n:]
        starts = th.zeros_like(h[0, :, 0])
        *said, after = self.policy(obs, RNNStates((h, c), (vf_h, vf_c)), starts, deterministic=True)
        return (*said, *after.pi, *after.vf)

    def inputs(self, n):
        """Return n observations (and states), as the policy takes them."""
        obs = self.policy.obs_to_tensor(arena.observe(self.policy, n))[0]
        parts = tuple(obs[key] for key in self.keys) if self.keys else (obs,)
        if hasattr(self.policy, "lstm_actor"):
            parts += tuple(th.randn(4, 1, n, HIDDEN).unbind())
        return parts


@pytest.fixture(autouse=True)
def unchecked_distributions():
    """Let torch's distributions look at no value, as an export can't."""
    th.distributions.Distribution.set_default_validate_args(False)
    yield
    th.distributions.Distribution.set_default_validate_args(True)


def exported(network):
    """Return the policy as ``torch.export`` records it from four observations."""
    parts = network.inputs(4)
    shapes = {"parts": tuple({0: ANY} for _ in parts)}
    return th.export.export(network, parts, dynamic_shapes=shapes).module()


def in_onnxruntime(network):
    """Return the policy's ONNX file, recorded from four observations, as onnxruntime runs it."""
    onnxruntime = pytest.importorskip("onnxruntime")
    parts = network.inputs(4)
    names = [f"in{i}" for i in range(len(parts))]
    # What an LSTM remembers has its layers first, and then the batch.
    num_obs = max(len(network.keys), 1)
    axes = {name: {int(i >= num_obs): "batch"} for i, name in enumerate(names)}
    file = io.BytesIO()
    options = {"opset_version": 17, "input_names": names, "dynamic_axes": axes}
    th.onnx.export(network, parts, file, dynamo=False, **options)
    session = onnxruntime.InferenceSession(file.getvalue())

    def run(*parts):
        given = dict(zip(names, (part.numpy() for part in parts), strict=True))
        # What a policy doesn't look at is no input of its file.
        return session.run(None, {each.name: given[each.name] for each in session.get_inputs()})

    return run


def check(case, export):
    """Compare at other batch sizes than the recorded one, one by one and together."""
    model = cases.make(case)
    th.manual_seed(0)
    for parameter in model.policy.parameters():
        parameter.data.normal_(std=0.5)
    network = Deployed(model).eval()
    recorded = export(network)
    for n in (1, 3):
        parts = network.inputs(n)
        with th.no_grad():
            both = network(*parts), recorded(*parts)
        ours, theirs = (x if isinstance(x, list | tuple) else (x,) for x in both)
        for mine, other in zip(ours, theirs, strict=True):
            th.testing.assert_close(th.as_tensor(other), mine, rtol=1e-4, atol=1e-4)


def quietly(test):
    """Let torch warn of its own deprecation, of branches, none of which matters here, and of LSTMs
    whose states are no inputs, as ours are."""
    for warning in ("torch.jit.TracerWarning", "DeprecationWarning", "UserWarning:torch.onnx"):
        test = pytest.mark.filterwarnings(f"ignore::{warning}")(test)
    return test


def some(first, rest):
    """Return cases of which the rest is nightly."""
    marked = [pytest.param(case, marks=pytest.mark.full) for case in rest if case not in first]
    return pytest.mark.parametrize("case", [*first, *marked], ids=str)


# The first cases of a cover hold most of its values.
@some(COVER[:6], PAIRS)
def test_an_export_says_the_same(case):
    check(case, exported)


@quietly
@some([*COVER, SPLIT, *cases.each_value(RECURRENT)[:2]], [*PAIRS, *cases.pairwise(RECURRENT)])
def test_an_onnx_file_says_the_same(case):
    pytest.importorskip("onnx")
    check(case, in_onnxruntime)


@pytest.mark.parametrize("alias", ["MlpLstmPolicy", "MoeMlpLstmPolicy"])
def test_a_recurrent_policy_cannot_be_exported_nor_can_sb3_contribs_own(alias):
    model = arena.make("RecurrentPPO", alias, lstm_hidden_size=HIDDEN)
    with pytest.raises(RuntimeError, match=NO_BRANCHES):
        exported(Deployed(model).eval())
