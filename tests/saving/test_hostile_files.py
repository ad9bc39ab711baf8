"""No file runs code, takes much memory or time, or fails in any way but one clear line."""

import sys

import arena
import forge
import hostile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sb3_moe
from sb3_moe import UnsafeFileError

SETTINGS = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Save small models of two kinds, and return the parts of their files."""
    return hostile.models(tmp_path_factory.mktemp("good"), ("PPO", "SAC"))


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """Make a module that leaves a file when it is imported."""
    sung = tmp_path / "sung"
    (tmp_path / "canary_in_a_mine.py").write_text(f"open({str(sung)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return sung


def refusal(path, **kwargs):
    """Load, and return the one line that says what is wrong; None if it loaded."""
    try:
        sb3_moe.load(path, device="cpu", **kwargs)
    except UnsafeFileError as error:
        text = str(error)
        assert "\n" not in text
        assert text.startswith(f"{path.name} can't be opened: ")
        return text.partition(": ")[2]
    return None


def test_hostile_files_run_nothing_take_little_and_are_refused_in_a_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    found = hostile.opened(tmp_path)
    assert len(found) >= 60
    for name, (error, sung, mebibytes) in found.items():
        assert error is not None, name
        assert error.startswith("hostile.moe can't be opened: "), name
        assert "\n" not in error, name
        assert "MemoryError" not in error, name
        assert not sung, name
        assert mebibytes < 256, name


@SETTINGS
@given(data=st.data())
def test_a_flipped_bit_is_found_or_changes_nothing_and_half_a_file_is_refused(data, good, tmp_path):
    state, tensors = good["PPO"]
    whole = bytearray(forge.forge(tmp_path / "x.moe", state, tensors).read_bytes())
    (tmp_path / "cut.moe").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert refusal(tmp_path / "cut.moe")
    at = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[at // 8] ^= 1 << at % 8
    (tmp_path / "flipped.moe").write_bytes(whole)
    if refusal(tmp_path / "flipped.moe") is None:
        changed, others = forge.parts_of(tmp_path / "flipped.moe")
        assert changed == state
        assert all(others[name].equal(tensor) for name, tensor in tensors.items())


def test_a_zip_of_sb3s_own_is_told_from_ours(tmp_path):
    arena.make("PPO", net_arch=[4]).save(tmp_path / "x.zip")
    assert refusal(tmp_path / "x.zip") == (
        "sb3_moe.save didn't write it; a file of SB3's model.save is opened by PPO.load or its like"
    )


def test_a_file_above_the_limit_says_what_to_pass(good, tmp_path):
    path = forge.forge(tmp_path / "x.moe", *good["PPO"])
    size = path.stat().st_size
    text = f"{size} bytes: pass max_bytes={2 * size}"
    assert text in refusal(path, max_bytes=1000)


def test_a_buffer_above_the_limit_says_what_to_pass(good, tmp_path):
    state, tensors = good["PPO"]
    larger = forge.changed(state, ("attributes", "n_steps"), 10**8)
    path = forge.forge(tmp_path / "x.moe", larger, tensors)
    text = refusal(path)
    assert text.startswith("its `n_steps` of 100000000 needs buffers of about ")
    assert text.endswith(" if you have the memory")
    assert "pass max_bytes=" in text


def test_an_option_that_names_a_module_is_refused_before_it_is_imported(good, tmp_path, canary):
    name = "canary_in_a_mine:Canary"
    state, tensors = good["PPO"]
    for option in ("router", "expert", "head_router"):
        for value in (name, {"dict": [["pi", name]]}):
            path = forge.forge(tmp_path / "x.moe", forge.option(state, option, value), tensors)
            assert f"its `{option}` names a module to import, {name!r}" in refusal(path)
    assert not canary.exists()


NASTY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.sampled_from([0, -1, 1, 2, 1.5, -0.0, 1e308, 5e-324, "", "auto", "auto_0", "x" * 500]),
    st.sampled_from([[], {}, [[]], [{}], {"tuple": []}, {"dict": []}, {"float": "nan"}]),
    st.sampled_from([{"array": "0"}, {"array": "1"}, {"tensor": "0"}, {"dtype": "float64"}]),
    st.sampled_from([{"class": f"canary_in_a_mine:{n}"} for n in ("Canary", "os.system")]),
    st.sampled_from([{"custom": "Canary"}, {"class": "SGD"}, {"class": "PPO"}, forge.DROP]),
)


@settings(SETTINGS, max_examples=25)
@given(data=st.data())
def test_any_change_of_the_values_is_refused_or_harmless(data, good, tmp_path, canary):
    state, tensors = good[data.draw(st.sampled_from(sorted(good)))]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(forge.places(state)))
        state = forge.changed(state, at, data.draw(NASTY))
    refusal(forge.forge(tmp_path / "x.moe", state, tensors))
    assert not canary.exists()
    assert "canary_in_a_mine" not in sys.modules


@SETTINGS
@given(data=st.data())
def test_any_change_of_the_headers_is_refused_or_harmless(data, good, tmp_path):
    whole = forge.forge(tmp_path / "x.moe", *good["SAC"]).read_bytes()
    header = forge.header_of(whole)
    at = data.draw(st.sampled_from(forge.places(header)))
    changed = forge.changed(header, at, data.draw(NASTY))
    (tmp_path / "x.moe").write_bytes(forge.with_header(whole, changed))
    refusal(tmp_path / "x.moe")
