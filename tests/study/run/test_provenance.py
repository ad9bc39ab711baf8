import sys

from sb3_moe.study.run.engine import child_environment, environment
from sb3_moe.study.run.provenance import provenance


def test_a_process_that_trains_says_what_started_the_study(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "orig_argv", ["python3", "/bin/sb3-moe", "study", "run", "mine.yaml"])
    variables = child_environment(tmp_path)
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-c", "from multiprocessing ..."])
    with environment(variables):
        assert provenance()["command"] == "sb3-moe study run mine.yaml"


def test_versions_and_hardware_are_named():
    ran = provenance()
    assert {"python", "torch", "stable-baselines3", "sb3-moe"} <= set(ran["versions"])
    assert ran["hardware"]["cores"] >= 1


def test_a_module_is_named_as_one_would_start_it(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python3.11", "-m", "sb3_moe", "study", "run", "a b"])
    assert provenance()["command"] == "python -m sb3_moe study run 'a b'"
