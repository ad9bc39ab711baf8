"""A study's file names classes of the user's own wherever there may be some."""

import pytest

from sb3_moe.policies.placements import PLACEMENTS
from sb3_moe.study.run.cell import _resolved, build_env
from sb3_moe.study.run.rehearsal import check_networks
from sb3_moe.study.spec.algorithms import arguments_of
from sb3_moe.study.spec.components import build_callbacks
from sb3_moe.study.spec.grid import read_study

PARTS = """
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from sb3_moe.callbacks import MultiTaskEvalCallback, PlasticityCallback
from sb3_moe.layers import MoELayer, UniformMoE
from sb3_moe.policies.placements import Placement, register_placement

register_placement(Placement(name="{ends}", meaning="in the last layer", hidden=-1, head="own"))

class Mine(UniformMoE):
    name = "mine"
    def __init__(self, experts, sees, *, kernel_fn=max):
        super().__init__(experts, sees)
        if not callable(kernel_fn):
            raise TypeError("`kernel_fn` must be a function")

class Eyes(FlattenExtractor):
    pass

class Norm(VecNormalize):
    def __init__(self, venv, clip=10.0):
        super().__init__(venv, norm_obs=False, clip_reward=clip)

class Evaluation(MultiTaskEvalCallback):
    pass

class Probe(PlasticityCallback):
    pass
"""


@pytest.fixture
def parts(tmp_path, monkeypatch, request):
    """Write a module of the user's own, which nothing has imported yet, and give its name."""
    name = f"parts_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(PARTS.replace("{ends}", f"ends of {name}"))
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(PLACEMENTS)
    yield name
    PLACEMENTS.clear()
    PLACEMENTS.update(before)


def read(tmp_path, **changes):
    values = {
        "name": "mine",
        "tasks": "[CartPole-v1, Acrobot-v1]",
        "architectures": "{small: {placement: none, net_arch: [4]}}",
        "n_envs": "2",
        "steps_per_task": "4096",
    }
    lines = (f"{name}: {text}" for name, text in {**values, **changes}.items())
    return read_study("\n".join(lines), tmp_path)


def test_a_placement_is_registered_by_the_module_of_its_router(parts, tmp_path):
    network = f"{{router: '{parts}:Mine', placement: 'ends of {parts}', net_arch: [4]}}"
    study = read(tmp_path, architectures=f"{{mine: {network}}}")
    check_networks(study.cells())


def test_options_are_checked_as_code_takes_them(parts, tmp_path):
    placed = "{'sb3_moe.policies.placements:Placement': {name: x, meaning: x, hidden: -1}}"
    network = f"router: '{parts}:Mine', router_kwargs: {{kernel_fn: 'math:hypot'}}"
    study = read(tmp_path, architectures=f"{{mine: {{{network}, placement: {placed}}}}}")
    check_networks(study.cells())


@pytest.mark.parametrize("env", ["{task_id: dict}", "{task_id: onehot}"])
@pytest.mark.parametrize("preset", ["none", "minatar"])
def test_an_extractor_of_ones_own_is_given_nothing_that_it_does_not_take(
    parts, tmp_path, env, preset
):
    eyes = f"{{features_extractor_class: '{parts}:Eyes', placement: middle, net_arch: [4]}}"
    small = "{placement: middle, net_arch: [4]}"
    study = read(tmp_path, env=env, preset=preset, architectures=f"{{eyes: {eyes}, s: {small}}}")
    eyes, ours = (arguments_of(cell)["policy_kwargs"] for cell in study.cells()[:2])
    assert "features_extractor_kwargs" not in eyes
    assert ("onehot" in env) == ("num_tasks" in ours.get("features_extractor_kwargs", {}))


def test_a_normaliser_of_ones_own_is_given_no_keys_that_it_does_not_take(parts, tmp_path):
    cell = read(tmp_path, normalize=f"{{'{parts}:Norm': {{clip: 5.0}}}}").cells()[0]
    env = build_env(cell, 2, 0, None)
    assert type(env).__name__ == "Norm"
    env.close()


def test_an_evaluation_of_ones_own_would_write_into_the_studys(parts, tmp_path):
    for name in (f"{parts}:Evaluation", "sb3_moe.callbacks:MultiTaskEvalCallback"):
        with pytest.raises(ValueError, match=r"can't have .*, a MultiTaskEvalCallback, which ever"):
            read(tmp_path, callbacks=f"[{{'{name}': {{every: 100}}}}]")
    elsewhere = f"[{{'{parts}:Evaluation': {{every: 100, log_path: elsewhere}}}}]"
    assert read(tmp_path, callbacks=elsewhere).cells()[0].callbacks
    study = read(tmp_path, callbacks=f"[{{'{parts}:Probe': {{every: 100}}}}]")
    (probe,) = build_callbacks(study.cells()[0].callbacks, tmp_path)
    assert type(probe).__name__ == "Probe"


@pytest.mark.parametrize("shown", [True, False])
def test_a_probe_of_ones_own_looks_when_it_says_and_the_run_writes_that_down(
    parts, tmp_path, shown
):
    callbacks = f"[{{'{parts}:Probe': {{every: 100}}}}]" if shown else "[]"
    (cell, *_) = read(tmp_path, callbacks=callbacks).cells()
    assert _resolved(cell)["probes_by_itself"] == shown
