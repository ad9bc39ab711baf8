import pytest

from sb3_moe.study.run.provenance import _command, provenance


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (
            ["python3.11", "-m", "sb3_moe.study", "run", "smoke"],
            "python -m sb3_moe.study run smoke",
        ),
        (
            ["python3.11", "/some/where/bin/sb3-moe", "study", "run", "a b"],
            "sb3-moe study run 'a b'",
        ),
    ],
)
def test_the_command_is_given_as_one_would_type_it(arguments, command):
    assert _command(arguments) == command


def test_versions_and_hardware_are_named():
    ran = provenance()
    assert {"python", "torch", "stable-baselines3", "sb3-moe"} <= set(ran["versions"])
    assert ran["hardware"]["cores"] >= 1
