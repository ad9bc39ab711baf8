"""The benchmarks' own arithmetic and files; never a time."""

from importlib import import_module
from pathlib import Path

from benchmarks import report, training


def test_every_benchmark_can_be_imported():
    for path in Path(report.__file__).parent.glob("*.py"):
        if path.stem != "__main__":
            import_module(f"benchmarks.{path.stem}")


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
