"""What `load` is given wrongly, or lacks, is not blamed on the file."""

import arena
import pytest
import torch as th
from stable_baselines3 import PPO

import sb3_moe
from sb3_moe import UnsafeFileError


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "x.moe"
    sb3_moe.save(arena.make("PPO", net_arch=[4]), path)
    return path


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"device": "gpu"}, RuntimeError, r"^Expected one of cpu, cuda.*: gpu$"),
        (
            {"custom_objects": {"learning_rate": 1e-5}},
            TypeError,
            r"^`custom_objects` must hold classes and functions, .*, got 'learning_rate'; "
            r"other arguments are changed on the model$",
        ),
    ],
)
def test_a_wrong_argument_is_not_blamed_on_the_file(arguments, error, message, path):
    with pytest.raises(error, match=message) as caught:
        sb3_moe.load(path, **arguments)
    assert not isinstance(caught.value, UnsafeFileError)


def clip_range(progress_remaining):
    return 0.1 + 0.1 * progress_remaining


def test_a_function_of_ones_own_may_be_called_like_an_argument(tmp_path):
    model = PPO("MoeMlpPolicy", "CartPole-v1", clip_range=clip_range, device="cpu")
    sb3_moe.save(model, tmp_path / "own.moe")
    again = sb3_moe.load(tmp_path / "own.moe", custom_objects={"clip_range": clip_range})
    assert again.clip_range(0.5) == pytest.approx(0.15)


def test_a_class_that_this_file_has_no_name_for_does_no_harm(path):
    sb3_moe.load(path, device="cpu", custom_objects={"Other": dict})


@pytest.mark.parametrize("max_bytes", [1e9, 10**9, th.iinfo(th.int64).max])
def test_any_number_of_bytes_may_be_allowed(max_bytes, path):
    assert sb3_moe.load(path, device="cpu", max_bytes=max_bytes).num_timesteps == 0


@pytest.mark.parametrize("error", [MemoryError, th.OutOfMemoryError])
def test_that_memory_ran_out_is_no_fault_of_the_files(error, path, monkeypatch):
    def full(*_):
        raise error("no room")

    monkeypatch.setattr("sb3_moe.saving.model_parts.set_weights", full)
    with pytest.raises(error, match=r"^no room$"):
        sb3_moe.load(path, device="cpu")
