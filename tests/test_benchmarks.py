"""The benchmarks' own arithmetic and files; never a time."""

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch as th

from benchmarks import (
    before,
    device,
    layers,
    peers,
    report,
    returns,
    training,
)
from benchmarks.stopwatch import REST, Stopwatch
from benchmarks.timing import bounded, paired


def test_every_benchmark_can_be_imported():
    for path in Path(report.__file__).parent.glob("*.py"):
        if path.stem != "__main__":
            import_module(f"benchmarks.{path.stem}")


def test_every_function_is_timed_once_per_round():
    calls = {"a": [], "b": []}
    functions = {name: lambda name=name: calls[name].append(name) for name in calls}
    seconds = paired(functions, rounds=4, slice_s=0.0, warmups=1)
    assert [len(times) for times in seconds.values()] == [4, 4]
    assert [len(times) for times in calls.values()] == [5, 5]  # and once before


def test_two_codes_take_turns_in_processes_of_their_own(tmp_path, monkeypatch):
    child = "import json, sys\nfrom seconds import S\n"
    monkeypatch.setattr(
        before, "CHILD", child + "for _ in sys.stdin: print(json.dumps(S), flush=True)"
    )
    others = {"dense": 2.0, "stock": 3.0, "none": 2.0}
    now = tmp_path / "now"
    now.mkdir()
    for folder, seconds in ((now, 1.0), (tmp_path, 2.0)):
        (folder / "seconds.py").write_text(f"S = {others | {'mixture': seconds}}")
    monkeypatch.setattr(before, "ROOT", now)
    lines = list(before.compare(tmp_path, "training", ["DQN, CartPole"], rounds=2, starts=2))
    twice, once = "2.00 (2.00 to 2.00)", "1.00 (1.00 to 1.00)"
    assert lines[0] == f"| DQN, CartPole: mixture / dense | {twice} | {once} | {twice} | 0.86 |"
    assert lines[-1].startswith("| DQN, CartPole: mixture, steps/s | 250 (250 to 250) | 125 (")
    assert len(lines) == 5


def test_a_mixture_trains_beside_three_dense_models_of_as_many_parameters(monkeypatch):
    name = "DQN, CartPole"
    case = training.CASES[name]
    small = case._replace(steps=8, options=case.options | {"num_experts": 2})
    models = small.models()
    counts = {key: training.num_parameters(model) for key, model in models.items()}
    assert list(counts) == ["mixture", "dense", "stock", "none"]
    assert max(counts.values()) / min(counts.values()) < 1.02
    kinds = {key: type(model.policy).__module__.split(".")[0] for key, model in models.items()}
    ours, sb3s = "sb3_moe", "stable_baselines3"
    assert kinds == {"mixture": ours, "dense": sb3s, "stock": sb3s, "none": ours}
    fused = {key: model.policy.optimizer.defaults["fused"] for key, model in models.items()}
    assert (fused["dense"], fused["stock"], fused["none"]) == (True, None, True)
    monkeypatch.setitem(training.CASES, name, small)
    rows = training.rows(name, training.race(name).rounds(2))
    assert [row["name"] for row in rows] == [f"{name}: {a} / {b}" for a, b in training.COLUMNS]
    assert all(row["lower_quartile"] <= row["ratio"] <= row["upper_quartile"] for row in rows)


class Nested:
    """Two methods that take a second by themselves, one of which calls the other."""

    def __init__(self):
        self.now = 0.0

    def outer(self):
        self.now += 1
        self.inner()

    def inner(self):
        self.now += 1


@pytest.mark.parametrize(
    ("inner", "seconds", "calls"),
    [(False, {"a": 2, "b": 1}, {"a": 1, "b": 1}), (True, {"a": 1, "b": 2}, {"a": 1, "b": 2})],
)
def test_a_method_inside_another_counts_as_the_outer_one_or_by_itself(inner, seconds, calls):
    watched = Nested()
    watch = Stopwatch(inner=inner, clock=lambda: watched.now)
    with watch.on({"a": [(watched, "outer")], "b": [(watched, "inner")]}):
        watched.outer()
        watched.inner()
        watched.now += 5
    assert (watch.seconds, watch.calls) == ({**seconds, REST: 5}, calls)
    assert vars(watched) == {"now": 8}


def test_the_loop_computes_what_our_layer_computes():
    from sb3_moe.layers import RouterInput, SoftMoE, StackedNetwork

    loop = peers.LoopSoftMoE(5, 7, 3, 2)
    sees = RouterInput(features=5, num_experts=3, num_tokens=6)
    ours = SoftMoE(StackedNetwork(list(loop.experts)), sees, num_slots=2)
    with th.no_grad():
        ours.router.weight_RK.copy_(loop.phi.flatten(1))
    x = th.randn(4, 6, 5)
    th.testing.assert_close(ours(x)[0], loop(x))


def test_all_layers_of_a_shape_run():
    pytest.importorskip("soft_moe_pytorch", reason="the bench extra is not installed")
    pytest.importorskip("st_moe_pytorch", reason="the bench extra is not installed")
    shape = layers.Shape(B=2, N=6, D=8, H=16, E=4, S=2)
    x = th.randn(2, 6, 8, requires_grad=True)
    for layer in layers.make_layers(shape, "cpu").values():
        layers.forward(layer, x)()
        layers.forward_backward(layer, x)()
        assert x.grad.shape == x.shape


def test_a_table_is_written_as_json_and_markdown(tmp_path):
    rows = [bounded("fast", 1.234, 1.1), bounded("slow", 0.5, 1.1) | {"ours_us": 12_345.6}]
    report.write(tmp_path, "layers", rows, {"threads": 1}, "Counted.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layers.json", "layers.md"]
    found = json.loads((tmp_path / "layers.json").read_text())
    assert found == {"about": {"threads": 1}, "rows": rows}
    text = (tmp_path / "layers.md").read_text()
    assert "\nCounted.\n" in text
    assert "| fast | 1.23 | >= 1.1 |  |" in text
    assert "| slow | 0.50 | >= 1.1 **missed** | 12,346 |" in text


def test_training_on_a_device_compares_policies_buffers_and_a_compiled_policy(monkeypatch):
    compiled = []
    monkeypatch.setattr(device.th, "compile", lambda function: compiled.append(1) or function)
    rows = device.rows("cpu", rounds=1, num_envs=2)
    names = [row["name"].removesuffix(" / dense, steps/s, 2 copies") for row in rows]
    extra = [
        f"{name}, {what}"
        for name in ("dense", device.MIXTURE)
        for what in ("buffer on the device", "compiled")
    ]
    assert names == [*device.POLICIES, *extra]
    assert len(compiled) == 2
    assert rows[0]["ratio"] == 1.0
    assert all(row["steps_per_s"] > 0 for row in rows)


@pytest.mark.parametrize("words", [["random", "Chess"], ["reference", "Conflict/CartPole2"]])
def test_a_suite_that_cant_be_measured_is_named(monkeypatch, capsys, words):
    monkeypatch.setattr("sys.argv", ["returns", *words])
    with pytest.raises(SystemExit):
        returns.main()
    error = capsys.readouterr().err
    assert "suites must be among MinAtar/MTRL3, " in error
    assert f"got ['{words[1]}']" in error
