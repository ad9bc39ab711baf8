"""A study of any algorithm that there are policies for, on any tasks, is checked as PPO's is."""

from pathlib import Path

import gymnasium as gym
import pytest
from yaml import safe_load

from sb3_moe.measures.budget import matching_net_arch
from sb3_moe.policies.registration import TABLE
from sb3_moe.saving.files import write_json
from sb3_moe.study.run.cell import build
from sb3_moe.study.run.folder import CellFolder, State
from sb3_moe.study.run.jobs import Job, changes
from sb3_moe.study.run.rehearsal import check_networks
from sb3_moe.study.spec.algorithms import arguments_of, default_policy, policy_of, towers_of
from sb3_moe.study.spec.grid import load_study, read_study
from sb3_moe.vec_env.replay_buffers import MultiTaskReplayBuffer


def make_cart_pole():
    return gym.make("CartPole-v1")


def read(tmp_path, **changes):
    values = {
        "name": "mine",
        "algorithm": "DQN",
        "tasks": "[CartPole-v1, Acrobot-v1]",
        "architectures": "{small: {placement: none, net_arch: [4]}}",
        "n_envs": "2",
        "steps_per_task": "2000",
    }
    lines = (f"{name}: {text}" for name, text in {**values, **changes}.items() if text)
    return read_study("\n".join(lines), tmp_path)


@pytest.mark.parametrize("algorithm", list(TABLE))
def test_every_algorithm_has_a_base_class_towers_and_a_policy_by_default(algorithm):
    if TABLE[algorithm].algorithm.startswith("sb3_contrib"):
        pytest.importorskip("sb3_contrib")
    task_id = "onehot" if algorithm == "CrossQ" else "dict"
    assert default_policy(algorithm, task_id) in TABLE[algorithm].aliases
    assert "MultiInput" not in default_policy(algorithm, "onehot")
    assert towers_of(algorithm)


def test_an_algorithm_without_a_policy_for_dicts_says_how_else_tasks_can_be_shown(tmp_path):
    pytest.importorskip("sb3_contrib")
    with pytest.raises(ValueError, match=r"^`env` must have a `task_id` other than 'dict' with Cr"):
        read(tmp_path, algorithm="CrossQ", tasks="[Pendulum-v1]")


def test_other_algorithms_have_sb3s_values_and_our_policy_unless_the_file_says_more(tmp_path):
    study = read(tmp_path, arguments="{gamma: 0.9, train_freq: [2, step]}")
    assert (study.preset, study.games) == ("none", ("CartPole", "Acrobot"))
    assert study.architectures[0].policy == "MoeMultiInputPolicy"
    cell = study.cells()[0]
    assert arguments_of(cell) == {
        "gamma": 0.9,
        "train_freq": (2, "step"),
        "policy_kwargs": {"placement": "none", "net_arch": [4]},
    }
    assert cell.rollout == 4
    assert cell.resolved["train_freq"] == [2, "step"]


@pytest.mark.parametrize(
    ("entry", "text", "message"),
    [
        ("algorithm", "DQM", "^`algorithm` must be one .*, got 'DQM'; did you mean `DQN`"),
        ("algorithm", "[DQN]", r"^`algorithm` must be text, got \['DQN'\]"),
        ("arguments", "{gama: 1.0}", "^there is no entry `arguments.gama`; did you mean `gamma`"),
        ("arguments", "{buffer_size: 1.5}", "^`arguments.buffer_size` must be a whole number"),
        ("arguments", "{gamma: .nan}", "^`arguments.gamma` must be finite, got nan"),
        ("arguments", "{policy_kwargs: {}}", "^there is no entry `arguments.policy_kwargs`"),
        (
            "arguments",
            "{replay_buffer_class: 'no.such:Thing'}",
            "^`arguments.replay_buffer_class` must be `package.module:Class`, got 'no.such:Thing'",
        ),
        ("arguments", "{train_freq: [1, episode]}", r"`train_freq` must be a number of steps, at"),
        ("arguments", "{train_freq: 0}", r"`train_freq` must be a number of steps, at least 1, g"),
        ("preset", "atari", "^`preset` must be 'minatar' or 'none', got 'atari'"),
        ("preset", "minatar", "^there is no entry `preset.minatar.n_epochs`"),
        ("steps_per_task", "1001", "multiple of the rollout of 'small', 8 steps in 2 environments"),
        ("tasks", "Classic/None", "^`tasks` must name a suite, .*, got 'Classic/None'"),
        ("tasks", "[CartPole-v7]", r"^`tasks\[0\]` must be a registered .*, got 'CartPole-v7'"),
        ("tasks", "[[CartPole-v1, 5]]", r"`tasks\[0\]\[1\]` must be a mapping, got 5"),
        ("tasks", "['no_such:x']", r"^`tasks\[0\]` can't be imported, got 'no_such:x'"),
        ("tasks", "[]", "^`games` must be different from each other, at least one"),
        ("games", "[CartPole-v1]", "^`games` must be .* left out where there are `tasks`, got"),
        ("env", "{task: dict}", "^there is no entry `env.task`; did you mean `task_id`"),
        ("env", "{schedule: x}", "^there is no entry `env.schedule`"),
        ("normalize", "5", "^`normalize` must be a mapping, got 5"),
        ("normalize", "Vec", "^`normalize` must be a name that is known or .*, got 'Vec'"),
        ("normalize", "'json:loads'", "^`normalize` must be a class of VecNormalize, got"),
        (
            "normalize",
            "{VecNormalize: {clip: 5.0}}",
            "^there is no entry `normalize.VecNormalize.clip`; did you mean `clip_obs`",
        ),
        ("callbacks", "[ReDo]", "^`callbacks` must be a name that is known .*, got 'ReDo'"),
        ("callbacks", "[ReDoCallback]", "^`callbacks.ReDoCallback.every` must be given"),
        ("callbacks", "[SnapshotCallback]", "^`callbacks` can't have .*`checkpoints` says how of"),
        ("schedule", "{Adaptive: {rule: 'x>1'}}", "^`schedule`: `rule` must be comparisons"),
        ("schedule", "{Cycle: {steps: 5}}", "^there is no entry `schedule.Cycle.steps`"),
        ("schedule", "{Interleave: {weights: [1, 2, 3]}}", "^`schedule`: .*weights.* 2"),
        ("schedule", "{Cycle: {steps_per_task: 1, num_cycles: 5}}", "^`schedule`: .*steps_per_ta"),
        ("seeds", "1" + 30 * "0", "^`seeds` must be a list, or 1 to 10,000 of them"),
        ("orders", "[[CartPole, Nope]]", "^`order` must .* among CartPole, Acrobot, got"),
        ("tune", "{argument: gama, values: [1, 2]}", "no entry `architectures.small.arguments.gam"),
        ("tune", "{argument: gamma, values: [0.9]}", "^`tune.values` must have at least 2 items"),
        ("tune", "{argument: gamma, values: [0.9, 1.0], seeds: [0]}", "none of the study's `seeds"),
    ],
)
def test_what_does_not_fit_names_the_entry_and_what_it_must_be(entry, text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **{entry: text})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("arguments: {gama: 1}", r"^there is no entry `architectures\.x\.arguments\.gama`"),
        ("callbacks: [ReDoCallback]", r"^`architectures\.x\.callbacks\.ReDoCallback\.every` must"),
        ("placement: {pi: big}", r"^`architectures\.x`: `placement` may name the towers \['qf'\]"),
        ("policy: MoePolicy", r"^`architectures\.x`: `policy` must be an alias that DQN knows"),
        (
            "policy: 'stable_baselines3.sac.policies:SACPolicy'",
            r"^`architectures\.x`: `policy` must be a class of SB3's DQNPolicy",
        ),
    ],
)
def test_an_architecture_is_checked_against_the_algorithm(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, architectures=f"{{x: {{{options}}}}}")


def test_tasks_are_a_suite_ids_ids_with_arguments_or_callables(tmp_path):
    text = f"[Acrobot-v1, [CartPole-v1, {{max_episode_steps: 9}}], '{__name__}:make_cart_pole']"
    study = read(tmp_path, tasks=text, n_envs="3", steps_per_task="1200")
    assert study.games == ("Acrobot", "CartPole", "make_cart_pole")
    assert study.cells()[-1].name == "crl-Acrobot.CartPole.make_cart_pole-small-s0"
    check_networks(study.cells())
    suite = read(tmp_path, tasks="Classic/CartPole4", n_envs="4", steps_per_task="1600")
    assert suite.games == ("Earth", "Moon", "LongPole", "WeakMotor")


def test_names_of_tasks_that_no_folder_could_have_are_written_otherwise(tmp_path):
    maps = [f"[FrozenLake-v1, {{map_name: {size}, desc: ['S/', 'FG']}}]" for size in ("a", "b")]
    study = read(tmp_path, tasks=f"[{', '.join(maps)}]", regimes="[scratch]")
    names = [cell.name for cell in study.cells()]
    assert len(set(names)) == 2
    assert not any(set("/' ") & set(name) for name in names)


def test_a_study_of_a_schedule_has_no_other_regimes_unless_it_names_them(tmp_path):
    blocks = "{Sequence: {blocks: [[CartPole, 800], [Acrobot, 3200]]}}"
    study = read(tmp_path, schedule=blocks)
    (cell,) = study.cells()
    assert (cell.regime, cell.order, cell.total_steps) == ("schedule", (), 4000)
    assert read(tmp_path, schedule="~").regimes == read(tmp_path).regimes == ("mtrl", "crl")
    mixed = read(tmp_path, schedule=blocks, regimes="[mtrl, schedule]")
    assert [each.schedule for each in mixed.cells()] == [None, study.schedule]
    with pytest.raises(ValueError, match=r'^`regimes` must have "schedule"'):
        read(tmp_path, schedule=blocks, regimes="[mtrl]")
    with pytest.raises(ValueError, match=r'^`schedule` must be given for the regime "schedule"'):
        read(tmp_path, regimes="[schedule]").cells()


def test_shares_of_the_copies_need_as_many_copies_as_tasks(tmp_path):
    with pytest.raises(ValueError, match=r"^`n_envs` must be at least the number of tasks, 2"):
        read(tmp_path, schedule="Interleave", n_envs="1")


def test_a_normaliser_that_cannot_be_built_is_refused_with_its_entry(tmp_path):
    study = read(tmp_path, normalize="{VecNormalize: {norm_obs_keys: [nope]}}")
    with pytest.raises(ValueError, match=r"^`normalize`: VecNormalize.*KeyError: 'nope'"):
        check_networks(study.cells())


PENDULUM = {"tasks": "Classic/Pendulum4", "n_envs": "4", "steps_per_task": "400"}


def test_actions_that_an_algorithm_cannot_take_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^`algorithm` DQN can't be trained here: .*Discrete"):
        check_networks(read(tmp_path, **PENDULUM).cells())


@pytest.mark.parametrize(
    ("algorithm", "tasks"),
    [
        ("A2C", {}), ("QRDQN", {}), ("TRPO", {}), ("RecurrentPPO", {}), ("MaskablePPO", {}),
        ("SAC", PENDULUM), ("TD3", PENDULUM), ("DDPG", PENDULUM), ("TQC", PENDULUM),
        ("CrossQ", PENDULUM | {"env": "{task_id: onehot}"}),
    ],
)  # fmt: skip
def test_networks_of_every_algorithm_are_built_and_act(algorithm, tasks, tmp_path):
    if TABLE[algorithm].algorithm.startswith("sb3_contrib"):
        pytest.importorskip("sb3_contrib")
    small = "net_arch: [4]" + (", lstm_hidden_size: 4" if algorithm == "RecurrentPPO" else "")
    columns = f"{{dense: {{placement: none, {small}}}, mix: {{num_experts: 2, {small}}}}}"
    steps = {"steps_per_task": "40960"} | {k: v for k, v in tasks.items() if k == "env"}
    check_networks(
        read(tmp_path, algorithm=algorithm, architectures=columns, **tasks | steps).cells()
    )


def test_rewards_that_are_normalised_by_task_come_from_a_buffer_that_knows_theirs(tmp_path):
    study = read(
        tmp_path, algorithm="SAC", normalize="{PerTaskVecNormalize: {clip_obs: 5.0}}", **PENDULUM
    )
    assert arguments_of(study.cells()[0])["replay_buffer_class"] is MultiTaskReplayBuffer


def test_the_policy_is_told_how_many_tasks_a_onehot_shows(tmp_path):
    study = read(tmp_path, env="{task_id: onehot}", arguments="{buffer_size: 10}")
    model, env = build(study.cells()[0])
    assert study.architectures[0].policy == "MoeMlpPolicy"
    assert model.policy.q_net.features_extractor.num_tasks == 2
    env.close()


def test_a_folders_configuration_is_compared_and_none_of_its_names_are_imported(
    tmp_path, monkeypatch
):
    (tmp_path / "never_imported.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))
    cell = read(tmp_path).cells()[0]
    named = {"callbacks": [{"name": "never_imported:Callback", "arguments": {}}]}
    arguments = {"arguments": {"seed": {"never_imported:call": {}}}}
    write_json(tmp_path / "config.json", {"cell": cell.to_dict() | named | arguments})
    found = changes(Job(cell, CellFolder(tmp_path), State("done")))
    assert [line.partition(":")[0] for line in found] == ["arguments.seed", "callbacks"]


def test_entries_that_did_not_exist_when_a_folder_was_written_have_their_defaults(tmp_path):
    cell = read(tmp_path, regimes="[mtrl]").cells()[0]
    since = ("env", "normalize", "callbacks", "schedule", "no_op_max")
    old = {name: value for name, value in cell.to_dict().items() if name not in since}
    old["architecture"] = {k: v for k, v in old["architecture"].items() if k != "callbacks"}
    write_json(tmp_path / "config.json", {"cell": old})
    job = Job(cell, CellFolder(tmp_path), State("done"))
    assert changes(job) == []
    write_json(tmp_path / "config.json", {"cell": {**old, "algorithm": "A2C"}})
    assert changes(job) == ["algorithm: 'A2C' -> 'DQN'"]


STUDIES = Path(__file__).parents[3] / "examples" / "studies"
EXAMPLES = sorted(set(STUDIES.glob("*.yaml")) - set(STUDIES.glob("*_claims.yaml")))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_of_a_study_says_how_to_run_it_and_its_networks_can_be_built(path):
    needs = {"ppo_atari": ("ale_py", "cv2"), "metaworld_mt3": ("metaworld",)}
    for package in needs.get(path.stem, ("sb3_contrib",)):
        pytest.importorskip(package)
    assert f"#     sb3-moe study run examples/studies/{path.name}\n" in path.read_text()
    check_networks(load_study(str(path)).cells())


def test_the_wide_network_of_meta_worlds_study_has_the_parameters_of_its_mixture():
    text = (STUDIES / "metaworld_mt3.yaml").read_text()
    networks = {name: dict(options) for name, options in safe_load(text)["architectures"].items()}
    spaces = (
        gym.spaces.Dict({"obs": gym.spaces.Box(-1, 1, (39,)), "task_id": gym.spaces.Discrete(3)}),
        gym.spaces.Box(-1, 1, (4,)),
    )
    policy = policy_of("MoeMultiInputPolicy", "SAC")
    arch = matching_net_arch(policy, *spaces, networks["moore"])
    assert arch == networks["dense-wide"]["net_arch"]


@pytest.mark.parametrize("columns", ["[dense]", "[soft-middle]"])
def test_a_misspelt_algorithm_is_named_whatever_the_networks_are_called(columns):
    text = f"{{name: x, algorithm: DQM, tasks: [CartPole-v1], architectures: {columns}}}"
    with pytest.raises(ValueError, match=r"`algorithm` must be one .*, got 'DQM'; did you mean"):
        read_study(text, Path())
