"""Hostile files of every kind, and what comes of opening each."""

import pickle
from pathlib import Path
from typing import Any

import arena
import forge
import torch as th

import sb3_moe

CODE = (
    "os:system", "builtins:eval", "canary_in_a_mine:Canary", "torch:load", "SnapshotCallback",
)  # fmt: skip
# Values that no model has, by the place in a PPO's file.
VALUES: list[tuple[tuple[Any, ...], Any]] = [
    (("format_version",), 7),
    (("algorithm",), {"class": "os.system"}),
    (("algorithm",), "ARS"),
    (("policy",), "os.system"),
    (("attributes", "tensorboard_log"), "/etc"),
    (("attributes", "predict"), 1),
    (("observation_space",), {"Graph": []}),
    (("observation_space",), {"Box": [["low", 0], ["high", 1], ["shape", [10**9]]]}),
    (("observation_space",), {"Discrete": [["n", 10**12], ["start", 0], ["dtype", None]]}),
    (("action_space",), {"Discrete": [["n", 10**12], ["start", 0], ["dtype", None]]}),
    (("action_space",), {"MultiBinary": [["n", 10**12]]}),
    (("attributes", "learning_rate"), {"array": "99"}),
    (("attributes", "policy_kwargs"), []),
    (("attributes", "n_steps"), 10**12),
    (("optimizers",), {}),
    (("optimizers", "policy.optimizer"), {"dict": [["state", {"dict": []}]]}),
    (("normalizer",), {"dict": [["class", "Evil"]]}),
]
# Options of a policy that would take memory, or import something.
OPTIONS: dict[str, list[tuple[str, Any]]] = {
    "PPO": [
        ("net_arch", [10**9]),
        ("net_arch", [4] * 150_000),
        ("net_arch", {"eval": "1"}),
        ("num_experts", 10**9),
        ("expert_width", 10**9),
        ("num_slots", 10**9),
        ("features_extractor_kwargs", {"dict": [["num_tasks", 10**12]]}),
    ],
    "SAC": [("n_critics", 10**9)],
    "RecurrentPPO": [("lstm_hidden_size", 10**9), ("n_lstm_layers", 10**9)],
}
ROLES = ("activation_fn", "optimizer_class", "features_extractor_class", "router")


def models(folder: Path, algorithms: Any = ("PPO", "SAC", "RecurrentPPO", "DQN")) -> dict[str, Any]:
    """Save small models of several kinds, and return the plain values and the tensors of each."""
    found = {}
    for algorithm in algorithms:
        alias = "MoeMlpLstmPolicy" if algorithm == "RecurrentPPO" else "MoeMlpPolicy"
        options = {"lstm_hidden_size": 4} if algorithm == "RecurrentPPO" else {}
        model = arena.train(arena.make(algorithm, alias, net_arch=[4], num_experts=2, **options))
        sb3_moe.save(model, folder / "good.moe")
        found[algorithm] = forge.parts_of(folder / "good.moe")
    return found


def bad_headers(data: bytes) -> dict[str, bytes]:
    """Return a file with headers that no good file has, by what they are."""
    header = forge.header_of(data)
    name = next(name for name in header if name.startswith("weights/") and header[name]["shape"])
    entry, said = header[name], header["__metadata__"]

    def with_entry(**changes: Any) -> bytes:
        return forge.with_header(data, header | {name: entry | changes})

    def saying(text: str) -> bytes:
        return forge.with_header(data, header | {"__metadata__": said | {"model": text}})

    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return {
        "empty": b"",
        "a pickle": pickle.dumps(("x", 1)),
        "says all": forge.with_header(data, header, length=2**63),
        "no JSON": forge.with_header(data, b"{"),
        "nothing said": forge.with_header(data, header | {"__metadata__": {}}),
        "many": forge.with_header(data, header | {f"arrays/x{i}": empty for i in range(100_000)}),
        "dtype": with_entry(dtype="F9"),
        "offsets": with_entry(data_offsets=[0, 2**40]),
        "overlap": forge.with_header(data, header | {"more": entry}),
        "other numbers": with_entry(dtype="I32"),
        "more data": data + b"x",
        "another number": data[:-1] + bytes([data[-1] ^ 1]),
        "nan": saying('{"a": NaN}'),
        "deep": saying("[" * 10**5 + "]" * 10**5),
        "another package's": saying('{"format": "keras"}'),
    }


def files(folder: Path) -> dict[str, bytes]:
    """Return the hostile files by name."""
    good = models(folder)
    found = {}

    def add(name: str, state: Any, tensors: dict[str, th.Tensor]) -> None:
        forge.forge(folder / "bad.moe", state, tensors)
        found[f"{len(found):03d} {name}"] = (folder / "bad.moe").read_bytes()

    state, tensors = good["PPO"]
    for at, value in VALUES:
        add(f"{at}", forge.changed(state, at, value), tensors)
    for algorithm, options in OPTIONS.items():
        for name, value in options:
            add(name, forge.option(good[algorithm][0], name, value), good[algorithm][1])
    for role in ROLES:
        for name in CODE:
            add(role, forge.option(state, role, {"class": name}), tensors)
    # An algorithm would make an environment, and import the module that its id names.
    made = forge.option(state, "features_extractor_class", {"class": "DQN"})
    env = {"dict": [["env", "canary_in_a_mine:Env-v0"]]}
    add("an environment", forge.option(made, "features_extractor_kwargs", env), tensors)
    for value in (10**15, 2**62, "x"):
        dqn = forge.changed(good["DQN"][0], ("attributes", "buffer_size"), value)
        add("buffer_size", dqn, good["DQN"][1])
    weights = {name: each for name, each in tensors.items() if name.startswith("weights/")}
    first = next(iter(weights))
    add("lacking", state, {name: each for name, each in tensors.items() if name != first})
    add("renamed", state, {name + "_": each for name, each in tensors.items()})
    add("too many", state, tensors | {"weights/more": th.zeros(0)})
    forge.forge(folder / "bad.moe", state, tensors)
    for name, data in bad_headers((folder / "bad.moe").read_bytes()).items():
        found[f"{len(found):03d} {name}"] = data
    return found


def peak() -> int:
    """Return the most memory so far in kibibytes, since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def opened(folder: Path) -> dict[str, tuple[str | None, bool, float]]:
    """Open each, and return the error or None, whether it ran anything, and mebibytes, by name."""
    sung, found = folder / "sung", {}
    (folder / "canary_in_a_mine.py").write_text(f"open({str(sung)!r}, 'w')\n")
    path = folder / "hostile.moe"
    for name, data in files(folder).items():
        path.write_bytes(data)
        del data
        Path("/proc/self/clear_refs").write_text("5")
        before, error = peak(), None
        try:
            sb3_moe.load(path, device="cpu")
        except sb3_moe.UnsafeFileError as refused:
            error = str(refused)
        found[name] = error, sung.exists(), (peak() - before) / 1024
    return found
