"""A study's file is read as it says, and refused with the entry that doesn't fit."""

import json
from dataclasses import fields
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from made_up_study import GAMES, ROLLOUT, planned, study
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize

from sb3_moe import presets
from sb3_moe.callbacks import MultiTaskEvalCallback
from sb3_moe.layers import UniformMoE
from sb3_moe.policies.learning_rates import LinearPerBlock
from sb3_moe.policies.registration import TABLE
from sb3_moe.study.building import (
    arguments_of,
    build,
    build_callbacks,
    build_env,
    policy_of,
    read_tasks,
    stream,
)
from sb3_moe.study.config import (
    PRESETS,
    About,
    Evaluation,
    RunConfig,
    StudyConfig,
    load_study,
    named_architecture,
    read_study,
    schema,
)
from sb3_moe.study.judging import load_claims
from sb3_moe.study.preparing import check_networks
from sb3_moe.study.report import of_the_grid
from sb3_moe.study.results import complete_table
from sb3_moe.vec_env import MultiTaskReplayBuffer
from sb3_moe.vec_env.past import VecPast

ROOT = Path(__file__).parents[2]
SB3S = "stable_baselines3.common.policies:MultiInputActorCriticPolicy"


def make_cart_pole(limit=None):
    return gym.make("CartPole-v1", max_episode_steps=limit)


def read(folder=Path(), **changes):
    """Read a small study with entries in place of its own."""
    values = {"name": "mine", "tasks": "[CartPole-v1, Acrobot-v1]", "architectures": "[dense]"}
    values |= {"n_envs": "2", "steps_per_task": "2000", "preset": "none"}
    values |= {"arguments": "{n_steps: 10, batch_size: 10}"} | changes
    return read_study("\n".join(f"{k}: {v}" for k, v in values.items() if v), folder)


def names(of):
    return [run.name for run in of.runs()]


def test_runs_are_every_regime_order_and_network_seed_by_seed():
    found = names(study(seeds=2))
    assert found[:6] == [
        "mtrl-SpaceInvaders.Breakout-dense-s0",
        "mtrl-SpaceInvaders.Breakout-soft-big-s0",
        "crl-SpaceInvaders.Breakout-dense-s0",
        "crl-SpaceInvaders.Breakout-soft-big-s0",
        "crl-Breakout.SpaceInvaders-dense-s0",
        "crl-Breakout.SpaceInvaders-soft-big-s0",
    ]
    assert len(found) == len(set(found)) == 12


def test_orders_can_be_given_rotated_permuted_or_listed():
    three = ("SpaceInvaders", "Breakout", "Asterix")
    for orders, count in {"given": 1, "rotations": 3, "all": 6}.items():
        assert len(study(games=three, orders=orders).sequences("crl")) == count
    assert study(orders=(GAMES[::-1],)).sequences("crl") == [GAMES[::-1]]
    assert study().sequences("scratch") == [(game,) for game in GAMES]


STUDIES = [
    path
    for path in (ROOT / "examples").rglob("*.yaml")
    if not path.name.startswith(("about", "recompute")) and "claims" not in path.name
]


@pytest.mark.parametrize("name", [*PRESETS, *map(str, STUDIES)], ids=lambda name: Path(name).stem)
def test_every_study_of_the_repository_can_be_read(name):
    study = load_study(name)
    assert study.runs()
    if study.claims:
        assert load_claims(study.claims, study.games).claims


def test_a_run_comes_back_from_its_plain_values():
    before = planned("crl", arguments={"learning_rate": 1e-3}, evaluation=Evaluation(points=3))
    assert RunConfig.from_dict(json.loads(json.dumps(before.to_dict()))) == before
    assert planned("mtrl").total_steps == 2 * 10 * ROLLOUT
    assert planned("crl", cycles=3).total_steps == 6 * 10 * ROLLOUT


def test_a_study_in_yaml(tmp_path):
    (tmp_path / "words.yaml").write_text("{title: 'Why?', notes: [One., Two.]}")
    text = """
    name: mine
    games: [Breakout, Asterix]
    orders: [[Breakout, Asterix], [Asterix, Breakout]]
    architectures:
      - dense
      - wide: {placement: none, net_arch: [128, 128], arguments: {learning_rate: 1e-3}}
    seeds: [3, 4]
    steps_per_task: 1.6384e4
    about: words.yaml
    """
    mine = read_study(text, tmp_path)
    assert (mine.seeds, mine.steps_per_task) == ((3, 4), 16384)
    assert mine.about == About(title="Why?", notes=("One.", "Two."))
    assert arguments_of(mine.runs()[1])["learning_rate"] == 0.001
    assert arguments_of(mine.runs()[1])["policy_kwargs"]["net_arch"] == [128, 128]
    assert mine.only == ()
    assert read(architectures="dense").networks == ["dense"]


def test_the_command_line_changes_entries_and_adds_networks():
    found = load_study("smoke", ("task-big", SB3S), seeds=3, only=["dense"])
    assert found.seeds == (0, 1, 2)
    added = [each.name for each in found.architectures]
    assert added == ["dense", "soft-big", "task-big", SB3S.split(":")[1]]
    assert found.architectures[-1].policy == SB3S
    assert {run.architecture.name for run in found.runs()} == {"dense"}


def test_a_number_of_seeds_takes_the_first_that_the_file_lists(tmp_path):
    listed = "{name: mine, tasks: [Breakout], architectures: [dense], seeds: [10, 12, 11]}"
    assert read_study(listed, tmp_path, seeds=2).seeds == (10, 12)
    with pytest.raises(ValueError, match="`seeds` must be 1 to 3, of those listed, got 4"):
        read_study(listed, tmp_path, seeds=4)


def test_a_name_that_means_something_keeps_it_where_options_say_no_other():
    for name, options, meant in (
        ("soft-big", None, {"placement": "big", "router": "soft"}),
        ("soft-big", {"num_experts": 8}, {"placement": "big", "router": "soft", "num_experts": 8}),
        ("top_k-big", {"router": "soft"}, {"placement": "big", "router": "soft"}),
        ("mine", {"num_experts": 8}, {"num_experts": 8}),
        ("dense", {"policy": "MlpPolicy"}, {}),
        ("MULTI_HEAD", {"net_arch": [8]}, presets.MULTI_HEAD | {"net_arch": [8]}),
    ):
        assert named_architecture(name, options).policy_kwargs == meant
    relu = named_architecture("SIMBA").policy_kwargs["activation_fn"]
    assert relu == "torch.nn.modules.activation:ReLU"
    with pytest.raises(ValueError, match=r"a method of sb3_moe.presets, .* got 'MINATAR_PPO'"):
        named_architecture("MINATAR_PPO")


@pytest.mark.parametrize("algorithm", list(TABLE))
def test_every_algorithm_has_a_policy_by_default(algorithm):
    if TABLE[algorithm].algorithm.startswith("sb3_contrib"):
        pytest.importorskip("sb3_contrib")
    box = "Pendulum-v1" if algorithm in ("SAC", "TD3", "DDPG", "TQC", "CrossQ") else "CartPole-v1"
    shown = "{task_id: onehot}" if algorithm == "CrossQ" else ""
    asked = {"tasks": f"[{box}]", "env": shown, "arguments": ""}
    (run, *_) = read(algorithm=algorithm, steps_per_task="20480", **asked).runs()
    assert policy_of(run).__name__ in TABLE[algorithm].aliases


def test_other_algorithms_have_sb3s_values_by_default():
    mine = read(algorithm="DQN", arguments="{gamma: 0.9, train_freq: 2}", preset="")
    run = mine.runs()[0]
    assert (mine.preset, mine.games, run.rollout) == ("none", ("CartPole", "Acrobot"), 4)
    given = {"gamma": 0.9, "train_freq": 2, "policy_kwargs": {"placement": "none"}}
    assert arguments_of(run) == given
    with pytest.raises(ValueError, match=r"`train_freq` must be a number of steps, .*'episode'"):
        read(algorithm="DQN", arguments="{train_freq: [1, episode]}", preset="")


def test_a_rate_is_annealed_over_the_run_or_each_block():
    run = planned("crl", annealing="block", arguments={"learning_rate": 1.0})
    rate = arguments_of(run)["learning_rate"]
    assert isinstance(rate, LinearPerBlock)
    assert [rate(left) for left in (0.75, 0.5, 0.25, 0.0)] == [0.5, 0.0, 0.5, 0.0]
    assert arguments_of(planned(annealing="run"))["learning_rate"](0.0) == 0.0
    own = {f"{LinearPerBlock.__module__}:LinearPerBlock": {"initial": 1.0, "num_blocks": 2}}
    assert arguments_of(planned(arguments={"learning_rate": own}))["learning_rate"](0.75) == 0.5
    with pytest.raises(ValueError, match="`annealing` needs a `learning_rate` that is a number"):
        planned(arguments={"learning_rate": own}, annealing="run")


def test_a_normalizer_by_task_brings_a_buffer_that_knows_tasks():
    run = read(algorithm="DQN", arguments="", normalize="PerTaskVecNormalize").runs()[0]
    assert arguments_of(run)["replay_buffer_class"] is MultiTaskReplayBuffer
    env = build_env(run, 2, 0, None)
    assert env.obs_rms["obs"] is not None
    env.close()


def test_tasks_are_a_suite_ids_ids_with_arguments_or_callables():
    tasks = f"[Acrobot-v1, [CartPole-v1, {{max_episode_steps: 9}}], '{__name__}:make_cart_pole']"
    mine = read(tasks=tasks, n_envs="3", steps_per_task="1200")
    assert mine.games == ("Acrobot", "CartPole", "make_cart_pole")
    assert names(mine)[-1] == "crl-Acrobot.CartPole.make_cart_pole-dense-s0"
    suite = read(tasks="Classic/CartPole4", n_envs="4", steps_per_task="1600")
    assert suite.games == ("Earth", "Moon", "LongPole", "WeakMotor")
    with_argument = f"['{__name__}:make_cart_pole', ['{__name__}:make_cart_pole', {{limit: 9}}]]"
    (_, nine) = read_tasks((), read(tasks=with_argument).tasks)
    assert nine.name == "make_cart_pole(limit=9)"
    assert nine.make().spec.max_episode_steps == 9


def test_a_study_of_a_schedule_has_no_other_regimes_unless_it_names_them():
    blocks = "{Sequence: {blocks: [[CartPole, 800], [Acrobot, 3200]]}}"
    (run,) = read(schedule=blocks).runs()
    assert (run.regime, run.order, run.total_steps) == ("schedule", (), 4000)
    mixed = read(schedule=blocks, regimes="[mtrl, schedule]")
    assert [each.schedule for each in mixed.runs()] == [None, mixed.schedule]
    for wrong in ({"schedule": blocks, "regimes": "[mtrl]"}, {"regimes": "[schedule]"}):
        with pytest.raises(ValueError, match=r'^`regimes` must have "schedule"'):
            read(**wrong)


def test_neighbouring_seeds_are_spread_out():
    # Environment i of a seed s is seeded s + i: 64 of them must not overlap.
    seeds = sorted(stream(seed) for seed in range(10))
    assert min(np.diff(seeds)) > 64


@pytest.mark.parametrize(
    ("entry", "text", "message"),
    [
        ("tasks", "Classic/None", "^`tasks` must name a suite, got 'Classic/None'; did you mean"),
        ("tasks", "[CartPole-v7]", r"^`tasks\[0\]` must be .*, got 'CartPole-v7'; did you mean"),
        ("tasks", "['no_such:x']", r"^`tasks\[0\]` can't be imported, got 'no_such:x'"),
        ("regimes", "[mtrl, clr]", "^`regimes.1` must be 'mtrl', 'crl', .*, got 'clr'"),
        ("steps_per_task", "1001", "multiple of the rollout of 'dense', 20 steps in 2 environme"),
        ("evaluation", "{pionts: 2}", "^there is no entry `evaluation.pionts`"),
        ("colour", "red", "^there is no entry `colour`; there are about, .*, tune$"),
        ("n_envs", "1", "^`schedule`: `n_envs` must be at least 2, one for each task"),
        ("games", "[Breakout, Asterix]", "^`games` must be .* left out where there are `tasks`"),
        ("no_op_max", "30", "^`no_op_max` must be left out where there are `tasks`"),
        ("normalize", "Vec", "`normalize` must be a VecNormalize by its name .*, got 'Vec'; there"),
        ("normalize", "json:loads", "`normalize` must be a VecNormalize by .* got 'json:loads'"),
        ("only", "[huge]", r"^`only` must name networks .*, got \('huge',\)"),
        ("algorithm", "DQM", "^`algorithm` must be one .*, got 'DQM'; did you mean 'DQN'"),
        ("arguments", "{gama: 1.0}", "`arguments`: got an unexpected .* 'gama'; .*gamma"),
        ("arguments", "{policy_kwargs: {}}", "`arguments` can't have what every run sets"),
        ("arguments", "{n_steps: 0}", "`n_steps` must be a number of steps, at least 1, got 0"),
        ("architectures", "[hard-big]", "must be `dense`, .* got 'hard-big'"),
        ("architectures", "{x: {policy: MoeMlpPolcy}}", "did you mean 'MoeMlpPolicy'"),
        ("architectures", "{x: big}", "`architectures.x` must be a mapping .*, got 'big'"),
        ("architectures", "{x: {start_from: {}}}", "must have one of `model` and `architecture`"),
        ("architectures", "{x: {placement: top}}", "architecture 'x': `placement` must be one"),
        ("architectures", "{x: {start_from: {architecture: y, order: [Pong]}}}", "needs `regimes`"),
        ("tune", "{argument: gamma, values: [0.9]}", "^`tune.values` .*at least 2 items"),
        ("tune", "{argument: gama, values: [1, 2]}", "`arguments`: got an unexpected .* 'gama'"),
        ("tune", "{argument: gamma, values: [0, 1], seeds: [0]}", "none of the study's `seeds`"),
    ],
)
def test_an_entry_that_does_not_fit_names_the_entry_the_rule_and_the_value(entry, text, message):
    with pytest.raises(ValueError, match=message):
        read(**{entry: text})


def test_a_file_that_is_no_study_is_refused():
    for text, message in (
        ("[1]", r"^a study must be a YAML mapping, got \[1\]$"),
        ("name: mine", "^`architectures` must be given$"),
        ("name: [1", "^the YAML can't be read: .*line 1, column"),
        ("name: one\nname: two", "^the YAML can't be read: there are two entries 'name'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_study(text, Path())


def test_the_schema_says_what_each_entry_is_and_the_docs_table_is_made_from_it():
    found = schema()
    assert found["required"] == ["name", "architectures"]
    assert set(found["properties"]) == {each.name for each in fields(StudyConfig)}
    assert all(each["description"] for each in found["properties"].values())
    assert found["properties"]["cycles"]["minimum"] == 1
    assert "placement" in str(found["properties"]["architectures"])
    assert json.loads((ROOT / "docs/_static/study.schema.json").read_text()) == found
    rows = ["| entry | default | meaning |", "|---|---|---|"]
    for name, each in found["properties"].items():
        default = f"`{json.dumps(each['default'])}`" if each.get("default") is not None else ""
        rows.append(f"| `{name}` | {default} | {each['description']} |")
    assert "\n".join(rows) in (ROOT / "docs/studies.md").read_text()


STARTS = """
name: starts
tasks: [CartPole-v1, Acrobot-v1]
regimes: [crl]
orders: [[Acrobot]]
preset: none
arguments: {n_steps: 8, batch_size: 8}
n_envs: 2
steps_per_task: 16
seeds: [3, 4]
architectures:
  dense: {placement: none}
  grown: {placement: middle, start_from: {architecture: dense, order: [CartPole]}}
  again: {placement: middle, start_from: grown}
  other: {placement: none, start_from: old.moe}
"""


def test_a_run_that_another_begins_with_joins_the_grid_and_comes_first(tmp_path):
    mine = read_study(STARTS, tmp_path)
    runs = mine.runs()
    assert {*of_the_grid(mine, complete_table(runs))["order"]} == {"Acrobot"}  # is compared
    found = [run.name for run in runs]
    assert found[:4] == [
        "crl-Acrobot-dense-s3",
        "crl-CartPole-dense-s3",
        "crl-Acrobot-grown-s3",
        "crl-Acrobot-again-s3",
    ]
    assert [run.start for run in runs[:4]] == [None, None, found[1], found[2]]
    assert runs[4].architecture.start_from.model == str(tmp_path / "old.moe")
    only = read_study(STARTS, tmp_path, only=["grown"])
    assert names(only)[:2] == ["crl-CartPole-dense-s3", "crl-Acrobot-grown-s3"]
    for run in runs:
        assert RunConfig.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    with pytest.raises(ValueError, match=r"another network of the study that doesn't begin with"):
        read_study(STARTS.replace("start_from: old.moe", "start_from: other"), tmp_path)


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


class OwnEvaluation(MultiTaskEvalCallback):
    pass


def test_classes_of_ones_own_are_named_by_their_module():
    router = f"router: '{__name__}:Mine', router_kwargs: {{kernel_fn: 'math:hypot'}}"
    eyes = f"features_extractor_class: '{__name__}:Eyes', placement: middle, net_arch: [4]"
    networks = f"{{mine: {{{router}, placement: middle}}, eyes: {{{eyes}}}}}"
    normalize = f"{{'{__name__}:Norm': {{clip: 5.0}}}}"
    mine = read(architectures=networks, normalize=normalize, env="{task_id: onehot}")
    check_networks(mine.runs())
    assert "features_extractor_kwargs" not in arguments_of(mine.runs()[1])["policy_kwargs"]


def test_an_evaluation_of_ones_own_would_write_into_the_studys(tmp_path):
    for name in (f"{__name__}:OwnEvaluation", "MultiTaskEvalCallback", "SnapshotCallback"):
        (run, *_) = read(callbacks=f"[{{'{name}': {{every: 100}}}}]").runs()
        with pytest.raises(ValueError, match=r"`callbacks` can't have .*: every run has"):
            build_callbacks(run.callbacks, tmp_path)
    elsewhere = f"[{{'{__name__}:OwnEvaluation': {{every: 100, log_path: elsewhere}}}}]"
    (run, *_) = read(callbacks=elsewhere).runs()
    (built,) = build_callbacks(run.callbacks, tmp_path)
    assert type(built).__name__ == "OwnEvaluation"
    (run, *_) = read(callbacks="[{PlasticityCallback: {by_gradient: true}}]").runs()
    (built,) = build_callbacks(run.callbacks, tmp_path, every=7, probe_size=9)
    assert (built.every, built.probe_size) == (7, 9)  # as the study's own


@pytest.mark.parametrize(("algorithm", "outermost"), [("PPO", VecPast), ("DQN", VecNormalize)])
@pytest.mark.parametrize(
    ("past", "key", "shape"),
    [
        ("history: 3", "history", (3, 6 + 3 + 2)),
        ("belief: 8", "belief", (8,)),
        ("belief: {num_models: 5, predicts: reward, active: 2}", "belief", (5,)),
    ],
)
def test_the_past_stands_above_the_normalizer_unless_a_replay_buffer_keeps_it(
    algorithm, outermost, past, key, shape
):
    hidden = {"env": f"{{task_id: info, {past}}}", "normalize": "VecNormalize", "arguments": ""}
    run = read(algorithm=algorithm, steps_per_task="4096", **hidden).runs()[0]
    model, env = build(run)
    assert isinstance(env, outermost)
    assert model.observation_space[key].shape == shape
    normalizer = model.get_vec_normalize_env()
    assert normalizer.norm_obs_keys == (["obs"] if outermost is VecNormalize else None)


def test_sb3s_own_policies_see_a_belief():
    networks = "{mlp: {policy: MlpPolicy}, inputs: {policy: MultiInputPolicy}}"
    study = read(architectures=networks, env="{task_id: info, belief: 4}")
    check_networks(study.runs())
