"""SB3's files say which version of this package wrote them."""

import tomllib
import warnings
from pathlib import Path

import arena
import pytest

from sb3_moe.policies.written_by import WrittenBy, as_number, as_version
from sb3_moe.version import __version__


def test_a_version_is_one_number_and_back():
    assert as_number("12.3.45") == 12003045
    assert as_version(12003045) == "12.3.45"
    assert as_number("1.2.3rc1") == 1002003
    assert as_version(1) == "0.1.0"


def test_the_version_is_the_distributions():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "QRDQN"])
def test_a_zip_of_another_major_version_says_so_in_one_line(algorithm, tmp_path, monkeypatch):
    model = arena.make(algorithm)
    monkeypatch.setattr(WrittenBy, "_version", as_number("7.1.0"))
    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")
    monkeypatch.undo()
    said = f"written by sb3_moe 7.1.0 and this is {__version__}"
    with pytest.warns(UserWarning, match=said) as caught:
        type(model).load(tmp_path / "model", device="cpu")
    assert [str(each.message).count("\n") for each in caught] == [0]
    with pytest.warns(UserWarning, match=said):
        type(model.policy).load(tmp_path / "policy")


def test_a_zip_of_the_same_major_version_says_nothing(tmp_path, monkeypatch):
    model = arena.make("PPO")
    monkeypatch.setattr(WrittenBy, "_version", as_number(__version__) + 1)
    model.save(tmp_path / "model")
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = type(model).load(tmp_path / "model", device="cpu")
    arena.assert_same_weights(model.policy, loaded.policy)


def test_weights_without_a_version_are_taken_as_they_are():
    model = arena.make("PPO")
    weights = dict(model.policy.state_dict())  # a plain dict has no place for a version
    model.policy.load_state_dict(weights)
