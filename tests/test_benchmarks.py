"""The benchmarks' own arithmetic and files; never a time."""

import json
import time

import pytest
import torch as th

from benchmarks import (
    before,
    cell,
    device,
    growth,
    layers,
    memory,
    peers,
    profiles,
    report,
    returns,
    start_scale,
    training,
)
from benchmarks.stopwatch import REST, Stopwatch
from benchmarks.timing import bounded, by_name, clock_on, paired, ratio


def test_every_function_is_timed_once_per_round():
    calls = {"a": [], "b": []}
    functions = {name: lambda name=name: calls[name].append(name) for name in calls}
    seconds = paired(functions, rounds=4, slice_s=0.0, warmups=1)
    assert [len(times) for times in seconds.values()] == [4, 4]
    assert [len(times) for times in calls.values()] == [5, 5]  # and once before


def test_a_ratio_is_the_median_over_rounds():
    assert ratio([2.0, 9.0, 4.0], [1.0, 1.0, 1.0]) == 4.0


def test_time_is_told_by_the_clock_that_was_asked_for():
    hours = iter(range(100))
    seconds = paired({"a": int}, rounds=2, slice_s=0.0, warmups=1, clock=lambda: next(hours))
    assert seconds == {"a": [1.0, 1.0]}


def test_one_thread_of_a_cpu_is_timed_by_its_own_time():
    threads = th.get_num_threads()
    try:
        th.set_num_threads(1)
        assert [clock_on("cpu"), clock_on("cuda")] == [time.process_time, time.perf_counter]
        th.set_num_threads(2)
        assert clock_on("cpu") is time.perf_counter
    finally:
        th.set_num_threads(threads)


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


def test_one_code_answers_each_name_of_a_case_with_a_round(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", ["8 rows, forward\n", "8 rows, forward\n"])
    monkeypatch.setattr("sb3_moe.layers.keep_freed_memory", bool)  # which can't be undone
    threads = th.get_num_threads()
    try:
        before.answer("layers")
    finally:
        th.set_num_threads(threads)
    rounds = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(each) for each in rounds] == [set(layers.RACERS)] * 2
    columns = layers.columns("8 rows, forward", by_name(rounds))
    assert len(columns) == len(layers.RACERS) + 1
    assert all(min(each) > 0 for each in columns.values())


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


@pytest.mark.parametrize(
    ("bound", "target", "met"),
    [({"at_least": 1.1}, ">= 1.1", True), ({"at_most": 1.1}, "<= 1.1", False), ({}, "", True)],
)
def test_a_row_says_whether_it_reached_its_target(bound, target, met):
    assert bounded("x", 1.2, **bound) == {"name": "x", "ratio": 1.2, "target": target, "met": met}


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


def test_a_stopwatch_leaves_methods_as_they_were_after_an_error():
    def fails():
        raise KeyError

    watched = Nested()
    watched.inner = fails
    with pytest.raises(KeyError), Stopwatch().on({"a": [(watched, "inner"), (Nested, "outer")]}):
        watched.outer()
    assert watched.inner is fails
    assert Nested.outer.__qualname__ == "Nested.outer"


def test_operators_are_told_apart_by_their_names():
    kinds = ["addmm", "mul_", "multinomial", "_fused_adam_"]
    found = ["GEMMs", "softmax, sums, products", profiles.OTHERS, "Adam's kernel, norms"]
    assert list(map(profiles.kind_of, kinds)) == found


@pytest.mark.parametrize("name", ["PPO, CartPole", "DQN, CartPole", "SAC, Pendulum"])
def test_every_part_of_a_loop_is_met_while_training(name):
    model = training.CASES[name].model("Moe", "cpu", placement="middle", net_arch=[4, 4])
    model.learn(4)
    watch = Stopwatch()
    with watch.on(profiles.parts_of(model)):
        model.learn(4, reset_num_timesteps=False)
    assert {*watch.calls} == {*profiles.parts_of(model)}


def test_operators_of_a_call_are_counted_by_kind():
    x = th.ones(2, 3)
    found = profiles.by_kind(lambda: [(x @ x.t()).tanh() for _ in range(4)], 2, total_us=1e9)
    assert {kind: calls for kind, (_, calls) in found.items()} | {profiles.OTHERS: 0} == {
        **dict.fromkeys(profiles.KINDS, 0),
        "GEMMs": 2,
        "activations": 2,
        profiles.BETWEEN: 0,
    }
    assert sum(us for us, _ in found.values()) == pytest.approx(1e9)


def test_a_profile_compares_two_policies_part_by_part():
    found = {"ours": {"a": (3.0, 2.0)}, "dense": {"a": (2.0, 1.0)}}
    assert profiles.row("x, a", "a", found) == {
        "name": "x, a",
        "ratio": 1.5,
        "target": "",
        "met": True,
        "dense_us": 2.0,
        "ours_us": 3.0,
        "more_us": 1.0,
        "dense_calls": 1.0,
        "our_calls": 2.0,
    }


def test_a_cell_has_shares_of_its_own_time_and_what_is_done_once_beside_it():
    found = cell.rows({"imports": 1.0, cell.TRAINING: 3.0}, {"x": 2.0})
    assert [(row["name"], row["ratio"], row["target"]) for row in found] == [
        (cell.TRAINING, 0.75, ">= 0.6"),
        ("imports", 0.25, ""),
        ("once for a study: x", 0.5, ""),
    ]


def test_the_exponent_of_a_power_law_is_found():
    assert growth.exponent([1, 2, 8], [3.0, 3 * 2**1.5, 3 * 8**1.5]) == pytest.approx(1.5)


def test_every_tenth_of_a_run_has_its_memory():
    watch = memory.Resident(100)
    for watch.num_timesteps in range(0, 101, 4):
        watch._on_step()
    assert len(watch.tenths) == 10
    assert min(watch.tenths) > 1


def test_flops_by_hand():
    one_token = layers.Shape(B=2, N=1, D=3, H=5, E=4, S=1)
    assert one_token.flops == 2 * 4 * (2 * 3 * 5 + 2 * 5 * 3) + 2 * 2 * 3 * 4
    tokens = layers.Shape(B=2, N=7, D=3, H=5, E=4, S=2)
    mixing = 3 * 2 * 2 * 7 * 3 * 8
    assert tokens.flops == 2 * 8 * (2 * 3 * 5 + 2 * 5 * 3) + mixing


def test_the_dense_baseline_has_as_many_parameters():
    width = peers.width_for_parameters(64, 10_000)
    found = sum(p.numel() for p in peers.mlp(64, width).parameters())
    assert abs(found - 10_000) <= 64 + 1


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


def test_a_row_of_start_scales_shows_the_output_farthest_from_the_dense_networks(monkeypatch):
    found = {True: {"a": 1.9, "b": 4.8}, False: {"a": 1.0, "b": 1.0}}
    monkeypatch.setattr(start_scale, "dense_sizes", lambda networks: {"a": 2.0, "b": 4.0})
    monkeypatch.setattr(
        start_scale, "sizes", lambda networks, options, *_: found["match_scale" in options]
    )
    assert start_scale.promised("middle", "soft", 4, seeds=8) == {
        "name": "middle, soft, 4 experts",
        "ratio": 1.2,
        "target": "0.9 to 1.1",
        "met": False,
        "a": 0.95,
        "b": 1.2,
        "a, off": 0.5,
        "b, off": 0.25,
    }


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


def test_training_on_a_device_is_left_out_in_one_line_without_one(capsys):
    assert device.run("cpu") == []
    out = capsys.readouterr().out
    assert out == "device: left out, as it needs a GPU that torch can use, got device 'cpu'\n"


def test_random_agents_are_measured_in_suites_of_every_family(monkeypatch):
    monkeypatch.setattr(returns, "EPISODES", 2)
    found = returns.measure_random("Conflict/CartPole2")
    assert list(found) == ["CartPole0", "CartPole1"]
    assert all(each.episodes == 2 and each.mean >= 8 for each in found.values())


@pytest.mark.parametrize("words", [["random", "Chess"], ["reference", "Conflict/CartPole2"]])
def test_a_suite_that_cant_be_measured_is_named(monkeypatch, capsys, words):
    monkeypatch.setattr("sys.argv", ["returns", *words])
    with pytest.raises(SystemExit):
        returns.main()
    error = capsys.readouterr().err
    assert "suites must be among MinAtar/MTRL3, " in error
    assert f"got ['{words[1]}']" in error
