"""Tensors in a file of their own, written one after the other."""

import numpy as np
import pytest
import safetensors.torch
import torch as th

from sb3_moe.saving import UnsafeFileError
from sb3_moe.saving.loose import Loose
from sb3_moe.saving.tensors import TensorFile, write_tensors

TENSORS = {
    "wide": th.arange(6, dtype=th.float64).reshape(2, 3),
    "turned": th.arange(6, dtype=th.int16).reshape(2, 3).T,
    "number": th.tensor(5),
    "empty": th.from_numpy(np.zeros(9, np.int64)[:0].copy()),
    "flags": th.tensor([True, False, True]),
    "half": th.tensor([1.5, -2.5], dtype=th.bfloat16),
    "learned": th.nn.Parameter(th.ones(3)),
}


@pytest.fixture
def folder(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        write_tensors(file, TENSORS)
    return tmp_path


def assert_equal(found):
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert th.equal(found[name], tensor.detach())


def test_tensors_of_every_kind_come_back(folder):
    assert_equal(dict(TensorFile(Loose(folder), "x").read()))


def test_the_file_is_one_of_safetensors(folder):
    assert_equal(safetensors.torch.load_file(folder / "x"))


def test_what_is_read_can_be_written_to(folder):
    found = dict(TensorFile(Loose(folder), "x").read())
    found["wide"][0, 0] = 9
    assert found["wide"].numpy().flags.writeable


@pytest.mark.parametrize("length", [0, 7, 40, -1])
def test_a_file_that_was_cut_is_refused(folder, length):
    (folder / "x").write_bytes((folder / "x").read_bytes()[:length])
    with pytest.raises(UnsafeFileError, match="x "):
        dict(TensorFile(Loose(folder), "x").read())


def test_a_file_that_is_cut_while_it_is_read_is_refused(folder):
    parts = Loose(folder).read_parts("x", [8, 10**6])
    next(parts)
    with pytest.raises(UnsafeFileError, match="x ends too early"):
        next(parts)
