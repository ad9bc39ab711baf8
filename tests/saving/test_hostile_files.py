"""No file runs code, takes much memory or time, or fails in any way but one clear line."""

import json
import os
import resource
import struct
import sys
import time
import zipfile
from pathlib import Path

import arena
import forge
import pytest
import torch as th
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sb3_moe
from sb3_moe import UnsafeFileError
from sb3_moe.saving.memory import BuildingLimit

GIB = 2**30
SETTINGS = settings(
    max_examples=100,
    deadline=10_000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Save small models of several kinds, and return their entries."""
    folder = tmp_path_factory.mktemp("good")
    found = {}
    for algorithm in ("PPO", "SAC", "RecurrentPPO"):
        alias = "MoeMlpLstmPolicy" if algorithm == "RecurrentPPO" else "MoeMlpPolicy"
        options = {"lstm_hidden_size": 4} if algorithm == "RecurrentPPO" else {}
        model = arena.make(
            algorithm, alias, net_arch=[4], num_experts=2, activation_fn=th.nn.ReLU, **options
        )
        sb3_moe.save(arena.train(model), folder / f"{algorithm}.moe")
        found[algorithm] = forge.parts_of(folder / f"{algorithm}.moe")
    model = arena.train(arena.make("DQN", net_arch=[4]))
    sb3_moe.save(model, folder / "DQN.moe", replay_buffer=True)
    found["DQN"] = forge.parts_of(folder / "DQN.moe")
    return found


@pytest.fixture(autouse=True)
def _limits():
    """Allow a GiB more than there is; what asks for more fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if (statm := Path("/proc/self/statm")).exists():
        now = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + GIB, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """Make a module that says so when it is imported, and whose class when it is made."""
    sung = tmp_path / "sung"
    module = tmp_path / "canary_in_a_mine.py"
    module.write_text(
        f"open({str(sung)!r}, 'w')\n\nclass Canary:\n    def __init__(self, *a, **k):\n"
        f"        open({str(sung)!r}, 'w')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return sung


def refusal(path, **kwargs):
    """Load, and return the one line that says what is wrong; None if it loaded."""
    begin = time.perf_counter()
    try:
        sb3_moe.load(path, device="cpu", **kwargs)
    except UnsafeFileError as error:
        assert time.perf_counter() - begin < 10
        text = str(error)
        assert "\n" not in text
        assert text.startswith(path.name)
        assert "MemoryError" not in text
        return text
    return None


# Damage.


@SETTINGS
@given(data=st.data())
def test_a_file_that_was_cut_off_is_refused(data, good, tmp_path):
    whole = forge.forge(tmp_path / "x.moe", good["PPO"]).read_bytes()
    cut = tmp_path / "cut.moe"
    cut.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert refusal(cut)


@SETTINGS
@given(data=st.data())
def test_a_flipped_bit_is_found_or_changes_nothing(data, good, tmp_path):
    whole = bytearray(forge.forge(tmp_path / "x.moe", good["PPO"]).read_bytes())
    at = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[at // 8] ^= 1 << at % 8
    (tmp_path / "flipped.moe").write_bytes(whole)
    if refusal(tmp_path / "flipped.moe") is None:
        assert forge.parts_of(tmp_path / "flipped.moe") == good["PPO"]


# The zip.

BAD_ZIPS = {
    "a way out": ({"../../evil.py": b"x"}, "an entry that ours lack, '../../evil.py'"),
    "a root": ({"/etc/passwd": b"x"}, "an entry that ours lack, '/etc/passwd'"),
    "a pickle": ({"data.pkl": b"x"}, "an entry that ours lack, 'data.pkl'"),
}


@pytest.mark.parametrize("name", BAD_ZIPS)
def test_entries_that_no_model_has_are_refused(name, good, tmp_path):
    more, text = BAD_ZIPS[name]
    assert text in refusal(forge.forge(tmp_path / "x.moe", good["PPO"] | more))
    assert list(tmp_path.iterdir()) == [tmp_path / "x.moe"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_comes_twice_is_refused(good, tmp_path):
    pairs = [*good["PPO"].items(), ("model.json", b"{}")]
    assert "two entries of one name" in refusal(forge.forge(tmp_path / "x.moe", pairs))


@pytest.mark.parametrize("name", ["model.json", "arrays.safetensors", "weights.safetensors"])
def test_an_entry_that_is_missing_is_named(name, good, tmp_path):
    parts = {key: value for key, value in good["PPO"].items() if key != name}
    assert f"no entry {name!r}" in refusal(forge.forge(tmp_path / "x.moe", parts))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(good, tmp_path):
    parts = good["PPO"] | {"weights.safetensors": bytes(2**24)}
    path = forge.forge(tmp_path / "x.moe", parts, zipfile.ZIP_DEFLATED)
    assert "is compressed" in refusal(path)


def patched(path, signature, offset, fmt, value):
    """Overwrite a field of the first record with that signature."""
    data = bytearray(path.read_bytes())
    struct.pack_into(fmt, data, data.index(signature) + offset, value)
    path.write_bytes(data)
    return path


CENTRAL, END = b"PK\x01\x02", b"PK\x05\x06"


def test_an_entry_that_claims_more_than_the_file_has_is_refused(good, tmp_path):
    path = forge.forge(tmp_path / "x.moe", good["PPO"])
    for offset in (20, 24):  # both its sizes
        patched(path, CENTRAL, offset, "<L", 2**31 - 1)
    assert "longer than the file" in refusal(path)


def test_a_directory_that_is_damaged_is_refused(good, tmp_path):
    path = patched(forge.forge(tmp_path / "x.moe", good["PPO"]), CENTRAL, 0, "<L", 0)
    assert "no whole zip file (Bad magic number" in refusal(path)


def test_an_encrypted_entry_is_refused(good, tmp_path):
    path = patched(forge.forge(tmp_path / "x.moe", good["PPO"]), CENTRAL, 8, "<H", 1)
    assert "encrypted" in refusal(path)


def test_a_directory_of_many_entries_is_refused_before_it_is_read(good, tmp_path):
    many = good["PPO"] | {f"x{i}": b"" for i in range(1000)}
    assert "1004 entries" in refusal(forge.forge(tmp_path / "x.moe", many))


def test_a_zip64_record_in_a_small_file_is_refused(good, tmp_path):
    path = forge.forge(tmp_path / "x.moe", good["PPO"])
    data = path.read_bytes()
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 1)
    path.write_bytes(data[:-22] + locator + data[-22:])
    assert "zip64" in refusal(path)


def test_a_zip_of_sb3s_own_is_told_from_ours(tmp_path):
    arena.make("PPO", net_arch=[4]).save(tmp_path / "x.zip")
    assert refusal(tmp_path / "x.zip").startswith(
        "x.zip can't be opened: sb3_moe.save didn't write it; a file of SB3's model.save is opened "
        "by PPO.load or its like (it has 6 entries, more than the 5 of ours)"
    )


def test_the_folder_one_stands_in_is_named_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafeFileError, match=r"^\. can't be opened: it is no regular file"):
        sb3_moe.load(".")


def test_a_comment_behind_the_zip_is_refused(good, tmp_path):
    path = forge.forge(tmp_path / "x.moe", good["PPO"])
    path.write_bytes(path.read_bytes() + b"x" * 100)
    assert "its last record is missing" in refusal(path)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        assert "no regular file" in refusal(path)
    with pytest.raises(FileNotFoundError):
        sb3_moe.load(tmp_path / "nothing.moe")


def test_a_file_above_the_limit_says_what_to_pass(good, tmp_path):
    path = forge.forge(tmp_path / "x.moe", good["PPO"])
    size = path.stat().st_size
    text = f"{size} bytes and `max_bytes` is 1000: pass max_bytes={2 * size}"
    assert text in refusal(path, max_bytes=1000)


def test_arrays_that_are_long_beside_the_limit_are_refused(good, tmp_path):
    data = good["PPO"]["arrays.safetensors"]
    header = json.dumps(forge.header_of(data)).encode() + b" " * 10**5
    parts = good["PPO"] | {"arrays.safetensors": forge.with_header(data, header)}
    path = forge.forge(tmp_path / "x.moe", parts)
    size = len(parts["arrays.safetensors"])
    text = (
        f"arrays.safetensors is longer than 25000 bytes: pass max_bytes={32 * size} if it is yours"
    )
    assert text in refusal(path, max_bytes=400_000)


# The JSON.

BAD_JSON = {
    "nan": (b'{"a": NaN}', "holds NaN"),
    "infinity": (b'{"a": -Infinity}', "holds -Infinity"),
    "huge float": (b'{"a": 1e999}', "a number that is too large, 1e999"),
    "huge int": (b'{"a": ' + b"9" * 10**5 + b"}", "a number that is too large"),
    "int": (b'{"a": 9223372036854775808}', "a number that is too large"),
    "twice": (b'{"a": 1, "a": 2}', "a key twice"),
    "deep": (b"[" * 10**5 + b"]" * 10**5, "nested deeper than 64"),
    "deep objects": (b'{"a":' * 100 + b"1" + b"}" * 100, "nested deeper than 64"),
    "no JSON": (b"import os", "is not JSON"),
    "half a character": (b'{"a": "\\uD800"}', "is not JSON"),
    "no text": (b"\xff\xfe", "is not JSON"),
    "no object": (b"[]", "no sb3_moe model"),
    "another": (b'{"format": "keras"}', "no sb3_moe model"),
    "long": (b'"' + b"x" * 2**20 + b'"', "longer than 1048576 bytes"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json_is_named(name, good, tmp_path):
    data, text = BAD_JSON[name]
    assert text in refusal(forge.forge(tmp_path / "x.moe", good["PPO"] | {"model.json": data}))


PK = ("arguments", "policy_kwargs", "dict")
BAD_VALUES = {
    "format_version": (("format_version",), 7, "format version 7 and this sb3_moe reads 1"),
    "key": (("more",), 1, "exactly the keys"),
    "memories": (("remembered",), [], "`remembered` holds no dict"),
    "memory": (("remembered",), {"predict": {"dict": {}}}, "it remembers 'predict'"),
    "memory's": (("remembered",), {"anchors": 3}, "`anchors` holds no dict"),
    "log": (("remembered",), {"expert_log": {"dict": {}}}, "`expert_log` holds no list"),
    "versions": (("versions",), [], "`versions` holds no dict"),
    "algorithm": (("algorithm",), "os.system", "its algorithm is 'os.system', none of"),
    "policy": (("policy",), "os.system", "its policy is 'os.system', none of"),
    "ARS": (("algorithm",), "ARS", "its algorithm is 'ARS'"),
    "argument": (("arguments", "train"), 1, "no argument 'train'"),
    "tensorboard": (("arguments", "tensorboard_log"), "/etc", "no argument 'tensorboard_log'"),
    "progress": (("progress", "predict"), 1, "it counts 'predict'"),
    "progress type": (("progress", "num_timesteps"), "1", "`num_timesteps` must be a number"),
    "schedule": (("schedules", "predict"), 1, "a schedule 'predict'"),
    "no schedule": (("schedules", "lr_schedule"), 1, "a schedule 'lr_schedule'"),
    "space": (("observation_space",), {"Graph": {}}, "unknown kind 'Graph'"),
    "two spaces": (("observation_space",), {"Box": {}, "Dict": {}}, "a space without one kind"),
    "shape": (
        ("observation_space",),
        {"Box": {"low": 0, "high": 1, "shape": [10**9]}},
        "Box space must have",
    ),
    "space's seed": (("action_space", "Discrete", "seed"), 1, "Discrete space must have"),
    "no actions": (("action_space", "Discrete", "n"), 0, "AssertionError"),
    "array": (("observation_space", "Box", "low"), {"array": "99"}, "the array '99'"),
    "unused": (("observation_space",), {"Discrete": {"n": 2, "start": 0, "dtype": None}}, "can't"),
    "kind": ((*PK, "net_arch"), {"eval": "1"}, "unknown kind 'eval'"),
    "kinds": ((*PK, "net_arch"), {"tuple": [], "dict": {}}, "an object without one kind"),
    "tuple": ((*PK, "net_arch"), {"tuple": 3}, "`net_arch` holds no list"),
    "misplaced": ((*PK, "net_arch"), {"FloatSchedule": {}}, "unknown kind 'FloatSchedule'"),
    "schedule's": (
        ("arguments", "learning_rate"),
        {"LinearSchedule": {"start": 1}},
        "LinearSchedule must have",
    ),
    "option": ((*PK, "num_exprts"), 2, "unexpected keyword argument 'num_exprts'"),
    "batch_size": (("arguments", "batch_size"), "8", "`batch_size` is of the wrong type, str"),
    "gamma": (("arguments", "gamma"), [], "`gamma` is of the wrong type, list"),
    "seed": (("arguments", "seed"), [], "`seed` is of the wrong type, list"),
    "version": (("versions", "sb3_moe"), "1.0\nall is well", "its `versions` are none"),
    "verbose": (("arguments", "verbose"), "x", "`verbose` is of the wrong type, str"),
    "policy_kwargs": (
        ("arguments", "policy_kwargs"),
        [],
        "`policy_kwargs` is of the wrong type, list",
    ),
    "optimizers": (("optimizers",), {}, "it has the optimisers []"),
    "groups": (("optimizers", "policy.optimizer", "groups"), [], "has 0 groups, not 1"),
    "group": (
        ("optimizers", "policy.optimizer", "groups", 0, "dict", "hook"),
        1,
        "other settings than the model's",
    ),
    "lr": (
        ("optimizers", "policy.optimizer", "groups", 0, "dict", "lr"),
        "x",
        "a `lr` of the wrong type",
    ),
    "betas": (
        ("optimizers", "policy.optimizer", "groups", 0, "dict", "betas"),
        [],
        "a `betas` of the wrong type",
    ),
    "value": (("optimizers", "policy.optimizer", "values"), [[99, "step", 1]], "isn't there"),
    "parts": (("optimizers", "policy.optimizer", "hook"), 1, "must have groups and values"),
    "buffer": (("replay_buffer",), {}, "rows or its state, but not both"),
    "normalizer": (("normalizer",), {}, "class, settings and statistics"),
    "normalizer class": (
        ("normalizer",),
        {"class": "Evil", "settings": {}, "statistics": {}},
        "its normalizer is 'Evil'",
    ),
    "normalizer settings": (
        ("normalizer",),
        {"class": "VecNormalize", "settings": {}, "statistics": {}},
        "must have the settings",
    ),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_a_wrong_value_is_named(name, good, tmp_path):
    at, value, text = BAD_VALUES[name]
    path = forge.forge(tmp_path / "x.moe", forge.changed(good["PPO"], at, value))
    assert text in refusal(path)


def test_state_of_a_replay_buffer_that_does_not_fit_is_named(good, tmp_path):
    for at, value, text in [
        (("replay_buffer", "pos"), 64, "is at 64 of 64"),
        (("replay_buffer", "full"), 1, "`full` holds no bool"),
        (("replay_buffer", "tasks"), [], "is no ReplayBuffer"),
        (("replay_buffer", "pos"), 3, "as torch.float32 [17, 1, 5] where the model needs"),
    ]:
        path = forge.forge(tmp_path / "x.moe", forge.changed(good["DQN"], at, value))
        assert text in refusal(path)


# Code.

CODE = [
    "os:system",
    "os.system",
    "builtins:eval",
    "builtins.exec",
    "subprocess:Popen",
    "canary_in_a_mine:Canary",
    "canary_in_a_mine.Canary",
    "torch.nn:Module",
    "torch.hub:load",
    "torch:load",
    "stable_baselines3.common.buffers:ReplayBuffer",
    "sb3_moe.callbacks:SnapshotCallback",
    "",
]


@pytest.mark.parametrize(
    "role",
    [
        (*PK, "activation_fn"),
        (*PK, "optimizer_class"),
        (*PK, "features_extractor_class"),
        (*PK, "router"),
        ("arguments", "learning_rate"),
        ("arguments", "rollout_buffer_class"),
    ],
    ids=lambda at: at[-1],
)
def test_a_class_that_is_not_on_the_list_is_neither_imported_nor_called(
    role, good, tmp_path, canary
):
    for name in CODE:
        value = {"class": name}
        path = forge.forge(tmp_path / "x.moe", forge.changed(good["PPO"], role, value))
        assert f"its `{role[-1]}` is {name!r}, which is none of the known classes" in refusal(path)
        assert not canary.exists()
    assert "canary_in_a_mine" not in sys.modules


@pytest.mark.parametrize(
    "at",
    [("algorithm",), ("policy",), (*PK, "activation_fn"), ("arguments", "learning_rate")],
    ids=lambda at: at[-1],
)
def test_a_class_of_the_makers_own_must_be_given(at, good, tmp_path, canary):
    for name in ("Mine", "os.system", "__import__", "canary_in_a_mine", 3):
        value = {"custom": name}
        path = forge.forge(tmp_path / "x.moe", forge.changed(good["PPO"], at, value))
        text = refusal(path, custom_objects={"Other": print})
        if isinstance(name, str):
            assert f"pass custom_objects={{{name!r}: ...}}" in text
        else:
            assert text
    assert not canary.exists()


@pytest.mark.parametrize("tower", [None, "pi", "elsewhere"])
@pytest.mark.parametrize("option", ["router", "expert", "head_router"])
def test_an_option_that_names_a_module_is_refused_before_it_is_imported(
    option, tower, good, tmp_path, canary
):
    name = "canary_in_a_mine:Canary"
    value = name if tower is None else {"dict": {tower: name}}
    path = forge.forge(tmp_path / "x.moe", forge.changed(good["PPO"], (*PK, option), value))
    assert f"its `{option}` names a module to import, {name!r}" in refusal(path)
    assert not canary.exists()


# Memory and time.

BOMBS = {
    "net_arch": ("PPO", (*PK, "net_arch"), [10**9]),
    "deep": ("PPO", (*PK, "net_arch"), [4] * 200_000),
    "wide": ("PPO", (*PK, "net_arch"), [2000, 2000, 2000, 2000]),
    "experts": ("PPO", (*PK, "num_experts"), 10**9),
    "expert_width": ("PPO", (*PK, "expert_width"), 10**9),
    "slots": ("PPO", (*PK, "num_slots"), 10**9),
    "tasks": ("PPO", (*PK, "features_extractor_kwargs"), {"dict": {"num_tasks": 10**12}}),
    "critics": ("SAC", (*PK, "n_critics"), 10**9),
    "lstm": ("RecurrentPPO", (*PK, "lstm_hidden_size"), 10**9),
    "lstm text": ("RecurrentPPO", (*PK, "lstm_hidden_size"), "x" * 1000),
    "lstm layers": ("RecurrentPPO", (*PK, "n_lstm_layers"), 10**9),
    "actions": ("PPO", ("action_space", "Discrete", "n"), 10**12),
    "n_steps": ("PPO", ("arguments", "n_steps"), 10**12),
    "n_envs": ("PPO", ("progress", "n_envs"), 10**12),
    "no n_envs": ("PPO", ("progress", "n_envs"), 0),
    "buffer_size": ("DQN", ("arguments", "buffer_size"), 10**15),
    "flat buffer_size": ("DQN", ("arguments", "buffer_size"), 2**62),
    "text buffer_size": ("DQN", ("arguments", "buffer_size"), "x"),
    "device buffer": ("DQN", ("arguments", "buffer_size"), 10**8),
    "observations": ("PPO", ("observation_space",), {"MultiBinary": {"n": 10**12}}),
    "axes": ("PPO", ("observation_space",), {"MultiBinary": {"n": [10**6, 10**6]}}),
    "discrete": ("PPO", ("observation_space", "Box"), forge.DROP),
}


@pytest.mark.parametrize("name", BOMBS)
def test_sizes_are_looked_at_before_memory_is_taken(name, good, tmp_path):
    algorithm, at, value = BOMBS[name]
    path = forge.forge(tmp_path / "x.moe", forge.changed(good[algorithm], at, value))
    assert refusal(path)


@pytest.mark.parametrize(
    "compute",
    [
        lambda: th.arange(10**6) < th.arange(20_000).unsqueeze(1),
        lambda: th.ones(16_384, 1) @ th.ones(1, 60_000),
        lambda: th.nn.Linear(1, 60_000)(th.ones(16_384, 1)),
        lambda: th.ones(2, 16_384, 1) @ th.ones(2, 1, 60_000),
        lambda: th.ones(60_000, 1) + th.ones(60_000),
    ],
    ids=["comparison", "product", "layer", "products", "sum"],
)
def test_what_building_computes_is_no_larger_than_a_share_of_what_is_allowed(compute):
    text = r"takes more memory than its weights warrant \(\d+ bytes in one step, of 536870912\)"
    with BuildingLimit(1000, 2**30, 0), pytest.raises(UnsafeFileError, match=text):
        compute()
    with BuildingLimit(1000, 2**30, 0):  # as `match_scale` runs a network of 2,000 units
        th.nn.Linear(1, 2000)(th.ones(16_384, 1))


def test_what_the_sizes_say_and_what_to_pass_is_told(good, tmp_path):
    for at, value, text in [
        ((*PK, "net_arch"), [10**9], "takes more memory than its weights warrant"),
        ((*PK, "num_experts"), 10**9, "takes more memory than its weights warrant"),
        (("arguments", "n_steps"), 10**12, "pass max_bytes="),
        (("arguments", "n_steps"), 1.5, "`n_steps` must be an int of at least 1, got 1.5"),
    ]:
        path = forge.forge(tmp_path / "x.moe", forge.changed(good["PPO"], at, value))
        assert text in refusal(path)


# Safetensors.


def bad_headers(data):
    header = forge.header_of(data)
    name = next(iter(header))
    entry = header[name]

    def with_entry(**changes):
        return forge.with_header(data, header | {name: entry | changes})

    return {
        "empty": b"",
        "says more": forge.with_header(data, header, length=2**40),
        "says all": forge.with_header(data, header, length=2**63),
        "no JSON": forge.with_header(data, b"{"),
        "no object": forge.with_header(data, []),
        "nothing": forge.with_header(data, {}),
        "metadata": forge.with_header(data, header | {"__metadata__": {"a": "b"}}),
        "dtype": with_entry(dtype="F9"),
        "no dtype": with_entry(dtype=3),
        "shape": with_entry(shape=[2**40]),
        "negative": with_entry(shape=[-1]),
        "text": with_entry(shape="12"),
        "axes": with_entry(shape=[1] * 100),
        "offsets": with_entry(data_offsets=[0, 2**40]),
        "overlap": forge.with_header(data, header | {"more": entry}),
        "gap": forge.with_header(data, {key: header[key] for key in list(header)[1:]}),
        "more data": data + b"x",
        "less data": data[:-1],
    }


@pytest.mark.parametrize("entry", ["arrays", "weights", "optimizers"])
def test_bad_safetensors_are_refused(entry, good, tmp_path):
    name = f"{entry}.safetensors"
    for what, data in bad_headers(good["PPO"][name]).items():
        path = forge.forge(tmp_path / "x.moe", good["PPO"] | {name: data})
        assert name in refusal(path), what


def name_of_matrix(header):
    shapes = {name: entry["shape"] for name, entry in header.items()}
    return next(name for name, shape in shapes.items() if len(shape) == 2 and len(set(shape)) == 2)


def test_weights_of_other_shapes_and_types_are_named(good, tmp_path):
    data = good["PPO"]["weights.safetensors"]
    header = forge.header_of(data)
    name = name_of_matrix(header)
    other = header[name] | {"shape": header[name]["shape"][::-1]}
    ints = header[name] | {"dtype": "I32"}
    renamed = {key + "_": entry for key, entry in header.items()}
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    for changed, text in [
        (header | {name: other}, "where the model needs"),
        (header | {name: ints}, "as torch.int32"),
        (renamed, "weights.safetensors lacks"),
        (header | {"more": empty}, "has 'more', which the model hasn't"),
    ]:
        parts = good["PPO"] | {"weights.safetensors": forge.with_header(data, changed)}
        assert text in refusal(forge.forge(tmp_path / "x.moe", parts))


def test_an_optimiser_state_of_another_shape_or_parameter_is_named(good, tmp_path):
    data = good["PPO"]["optimizers.safetensors"]
    header = forge.header_of(data)
    name = name_of_matrix(header)
    _, _, key = name.split("/")
    other = header[name] | {"shape": header[name]["shape"][::-1]}
    rest = {key: entry for key, entry in header.items() if key != name}
    for changed, text in [
        (header | {name: other}, "for a parameter of"),
        (rest | {f"policy.optimizer/99/{key}": header[name]}, "isn't there"),
        (rest | {f"policy/0/{key}": header[name]}, "which no optimiser has"),
        (rest | {f"policy.optimizer/x/{key}": header[name]}, "which no optimiser has"),
        (rest | {name + "_": header[name]}, "lacks a part of some parameter's state"),
    ]:
        parts = good["PPO"] | {"optimizers.safetensors": forge.with_header(data, changed)}
        assert text in refusal(forge.forge(tmp_path / "x.moe", parts))


def test_arrays_that_belong_to_nothing_are_named(good, tmp_path):
    data = good["PPO"]["arrays.safetensors"]
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = forge.header_of(data) | {"more": empty}
    parts = good["PPO"] | {"arrays.safetensors": forge.with_header(data, header)}
    path = forge.forge(tmp_path / "x.moe", parts)
    assert "its array 'more' belongs to nothing" in refusal(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: th.empty(1000),
        lambda: th.zeros(10, 100),
        lambda: th.full((1000,), 1.0),
        lambda: th.rand(1000),
        lambda: th.eye(40),
        lambda: th.eye(40, 30),
        lambda: th.zeros(1).new_zeros(1000),
        lambda: th.zeros(500, dtype=th.float64),
        lambda: [th.zeros_like(th.zeros(100)) for _ in range(10)],
        lambda: th.nn.Linear(30, 30),
        lambda: th.nn.LSTM(10, 10),
        lambda: [th.zeros(0) for _ in range(2001)],
    ],
)
def test_tensors_of_every_kind_are_counted(make):
    limit = BuildingLimit(weight_bytes=0, max_bytes=0, besides=3000)
    with limit, pytest.raises(UnsafeFileError, match="more memory than its weights warrant"):
        make()
    assert limit.bytes > 3000 or limit.tensors > 2000


# Anything.

NASTY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.sampled_from([0, -1, 1, 2, 1.5, -0.0, 1e308, 5e-324, "", "auto", "auto_0", "x" * 500]),
    st.sampled_from([[], {}, [[]], [{}], {"tuple": []}, {"dict": {}}, {"float": "nan"}]),
    st.sampled_from([{"array": "0"}, {"array": "1"}, {"scalar": "0"}, {"dtype": "float64"}]),
    st.sampled_from(
        [{"class": f"canary_in_a_mine:{n}"} for n in ("Canary", "__builtins__", "os.system")]
    ),
    st.sampled_from([{"custom": "Canary"}, {"custom": "__import__"}, forge.DROP]),
)


@settings(SETTINGS, max_examples=200)
@given(data=st.data())
def test_any_change_of_the_json_is_refused_or_harmless(data, good, tmp_path, canary):
    algorithm = data.draw(st.sampled_from(sorted(good)))
    parts = good[algorithm]
    for _ in range(data.draw(st.integers(1, 3))):
        state = json.loads(parts[forge.MODEL])
        at = data.draw(st.sampled_from(forge.places(state)))
        parts = forge.changed(parts, at, data.draw(NASTY))
    refusal(forge.forge(tmp_path / "x.moe", parts))
    assert not canary.exists()
    assert "canary_in_a_mine" not in sys.modules


@SETTINGS
@given(data=st.data())
def test_any_change_of_the_headers_is_refused_or_harmless(data, good, tmp_path, canary):
    algorithm = data.draw(st.sampled_from(sorted(good)))
    names = sorted(name for name in good[algorithm] if name.endswith(".safetensors"))
    name = data.draw(st.sampled_from(names))
    header = forge.header_of(good[algorithm][name])
    at = data.draw(st.sampled_from(forge.places(header)))
    changed = forge.changed({forge.MODEL: json.dumps(header).encode()}, at, data.draw(NASTY))
    forged = forge.with_header(good[algorithm][name], changed[forge.MODEL])
    refusal(forge.forge(tmp_path / "x.moe", good[algorithm] | {name: forged}))
    assert not canary.exists()
