"""Every policy put into other formats as SB3's page on exporting says: the outputs are equal."""

import arena
import cases
import exporting
import pytest
import torch as th

EVERY = [case for case in cases.every_case() if case.algorithm != "RecurrentPPO"]
RECURRENT = [case for case in cases.every_case() if case.algorithm == "RecurrentPPO"]
# Whose policies are those of another algorithm.
TWINS = ("A2C", "TRPO", "DDPG")
COVER = cases.each_value([case for case in EVERY if case.algorithm not in TWINS])
PAIRS = cases.pairwise([case for case in EVERY if case.algorithm not in TWINS])
# Behind experts that encode pictures, a Gaussian's mean and deviation are split and joined again.
SPLIT = cases.Case("SAC", "MoeCnnPolicy", "big", "uniform", "sample")


@pytest.fixture(autouse=True)
def unchecked_distributions():
    """Let torch's distributions look at no value, as an export can't."""
    th.distributions.Distribution.set_default_validate_args(False)
    yield
    th.distributions.Distribution.set_default_validate_args(True)


def check(case, export):
    network = exporting.deployed(case)
    exporting.assert_says_the_same(export(network), network)


def quietly(test):
    """Let torch warn of its own deprecation, of branches, none of which matters here, and of LSTMs
    whose states are no inputs, as ours are."""
    for warning in ("torch.jit.TracerWarning", "DeprecationWarning", "UserWarning:torch.onnx"):
        test = pytest.mark.filterwarnings(f"ignore::{warning}")(test)
    return test


# The first cases of a cover hold most of its values.
@pytest.mark.parametrize("case", COVER[:6], ids=str)
def test_an_export_says_the_same(case):
    check(case, exporting.exported)


@pytest.mark.full
@pytest.mark.parametrize("case", PAIRS, ids=str)
def test_every_export_says_the_same(case):
    check(case, exporting.exported)


@quietly
@pytest.mark.parametrize("case", [*COVER, SPLIT, *cases.each_value(RECURRENT)[:2]], ids=str)
def test_an_onnx_file_says_the_same(case):
    pytest.importorskip("onnx")
    check(case, exporting.in_reference)


@quietly
@pytest.mark.parametrize("case", [*COVER, SPLIT, *cases.each_value(RECURRENT)[:2]], ids=str)
def test_onnxruntime_says_the_same(case):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    check(case, exporting.in_onnxruntime)


@quietly
@pytest.mark.full
@pytest.mark.parametrize("case", [*PAIRS, *cases.pairwise(RECURRENT)], ids=str)
def test_every_onnx_file_says_the_same(case):
    pytest.importorskip("onnx")
    check(case, exporting.in_reference)


def test_checked_distributions_stop_an_export_of_sb3s_own_policy():
    th.distributions.Distribution.set_default_validate_args(True)
    network = exporting.Deployed(arena.make("PPO", "MlpPolicy").policy, []).eval()
    with pytest.raises(RuntimeError, match="Could not guard on data-dependent expression"):
        exporting.exported(network)


@pytest.mark.parametrize("alias", ["MlpLstmPolicy", "MoeMlpLstmPolicy"])
def test_a_recurrent_policy_cannot_be_exported_nor_can_sb3_contribs_own(alias):
    model = arena.make("RecurrentPPO", alias, lstm_hidden_size=exporting.HIDDEN)
    with pytest.raises(RuntimeError, match="Could not guard on data-dependent expression"):
        exporting.exported(exporting.Deployed(model.policy, []).eval())
