"""Files for the zoo have every suite, with arguments that algorithms and policies take."""

import inspect
import runpy

import pytest
import torch as th
import yaml
from stable_baselines3 import DQN, PPO, SAC
from torch import nn

from sb3_moe.integrations import zoo
from sb3_moe.integrations.zoo import (
    FOLDER,
    class_of,
    hyperparameters,
    join,
    read_kwargs,
    sample_options,
)
from sb3_moe.policies.options import DEFAULTS, per_network
from sb3_moe_envs import SUITES
from sb3_moe_envs.suites import IDS

ALGORITHMS = {"ppo": PPO, "dqn": DQN, "sac": SAC}
# What the zoo reads itself.
OF_THE_ZOO = {"policy", "n_timesteps", "n_envs", "env_kwargs", "normalize", "policy_kwargs"}
BOX = ("Classic/Pendulum", "Physics/Pendulum", "Goal/Pendulum", "MuJoCo/", "MetaWorld/")


def read(algorithm):
    return yaml.safe_load(hyperparameters(algorithm).read_text())


def kwargs_of(entry):
    return eval(entry.get("policy_kwargs", "{}"), {"nn": nn})


def suites(algorithm):
    """Name the suites that an algorithm can play, without those of one task of Meta-World and those
    that EnvPool steps, whose arguments are those of the suites of the same name."""
    for name in SUITES:
        plays = {"ppo": True, "dqn": not name.startswith(BOX), "sac": name.startswith(BOX)}
        left_out = name.startswith("MetaWorld/MT1-") or name.endswith("-EnvPool")
        if plays[algorithm] and not left_out:
            yield f"SB3MoE/{name.replace('/', '-')}-v0"


SUITES_OF = {algorithm: list(suites(algorithm)) for algorithm in ALGORITHMS}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_there_is_an_entry_for_every_suite_and_every_id_is_registered(algorithm):
    entries = read(algorithm)
    assert set(SUITES_OF[algorithm]) <= entries.keys()
    ids = {name for name in entries if name not in ("default", "atari")}
    assert ids <= {f"SB3MoE/{name}" for name in IDS}
    suites = {f"SB3MoE/{suite.replace('/', '-')}-v0" for suite in SUITES}
    for name in ids:
        assert (entries[name]["policy"] == "MoeMultiInputPolicy") == (name in suites), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_entry_holds_what_its_algorithm_and_policy_take(algorithm):
    cls = ALGORITHMS[algorithm]
    taken = OF_THE_ZOO | set(inspect.signature(cls).parameters)
    of_policies = {*DEFAULTS, "net_arch", "activation_fn", "features_extractor_kwargs"}
    for name, entry in read(algorithm).items():
        kwargs = kwargs_of(entry)
        assert set(entry) <= taken, name
        assert set(kwargs) <= of_policies, name
        options = {key: value for key, value in kwargs.items() if key in DEFAULTS}
        assert per_network(options, cls.policy_aliases[entry["policy"]].network_names), name
        # Schedules count the steps of all environments.
        number = entry.get("env_kwargs", {}).get("num_envs")
        several = name in SUITES_OF[algorithm] and entry.get("n_envs", 1) > 1
        assert number == entry.get("n_envs") if several else number in (None, entry.get("n_envs"))


def test_an_installed_user_finds_a_file_by_a_command(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["zoo", "ppo"])
    runpy.run_path(zoo.__file__, run_name="__main__")
    assert capsys.readouterr().out.strip() == str(FOLDER / "ppo.yml")
    with pytest.raises(ValueError, match=r"`algorithm` must be among \['dqn', 'ppo', 'sac'\], got"):
        hyperparameters("../ppo")


class Trial:
    """Chooses the last of each choice, and remembers all."""

    def __init__(self):
        self.asked = {}

    def suggest_categorical(self, name, choices):
        self.asked[name] = list(choices)
        return choices[-1]


def sample(given, cls=PPO, policy="MoeMlpPolicy", **kwargs):
    trial = Trial()
    sampled = sample_options(trial, cls.policy_aliases[policy], given, **kwargs)
    assert sampled == {name: choices[-1] for name, choices in trial.asked.items()}
    return trial.asked


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, {"placement", "router", "num_experts"}),
        ({"placement": "final"}, {"router", "num_experts"}),
        ({"router": {"pi": "task", "vf": "soft"}}, {"placement"}),
        ({"placement": "none"}, set()),
        ({"placement": {"pi": "none", "vf": "big"}}, {"router", "num_experts"}),
        ({"placement": "big", "router": "soft", "num_experts": 3}, set()),
    ],
)
def test_what_is_given_is_kept_and_the_rest_sampled(given, asked):
    assert set(sample(given)) == asked


def test_values_that_do_not_go_with_what_is_given_are_not_offered():
    assert sample({"tokens": "conv"}, policy="MoeCnnPolicy")["placement"] == ["middle", "all"]
    assert sample({"top_k": 4, "router": "top_k"})["num_experts"] == [4, 8]
    assert sample({}, use_sde=True)["placement"] == ["middle", "all"]
    assert sample({"features_extractor_class": nn.Module})["placement"] == ["middle", "all"]
    assert sample({"num_slots": 2})["router"] == ["soft"]


def test_what_the_zoo_drops_is_joined_again():
    sampled = {"gamma": 0.9, "policy_kwargs": {"net_arch": [64], "activation_fn": nn.ReLU}}
    given = {"placement": "big", "net_arch": [8]}
    assert join(sampled, given, {"num_experts": 8}) == {
        "gamma": 0.9,
        "policy_kwargs": {
            "placement": "big", "net_arch": [64], "activation_fn": nn.ReLU, "num_experts": 8
        },
    }  # fmt: skip
    assert join(sampled, given | {"tokens": "conv"}, {})["policy_kwargs"]["net_arch"] == [8]
    assert "net_arch" not in join(sampled, {"tokens": "conv"}, {})["policy_kwargs"]
    assert join({"gamma": 0.9}, given, {})["policy_kwargs"] == given


def test_a_dict_is_read_back_from_its_text():
    given = {
        "placement": {"pi": "big", "vf": "none"},
        "net_arch": [64, 64],
        "activation_fn": nn.ReLU,
        "optimizer_class": th.optim.Adam,
        "router_kwargs": {"hidden": (8,)},
        "match_scale": True,
        "expert_width": None,
    }
    assert read_kwargs(str(given)) == given

    with pytest.raises(ValueError, match="`policy_kwargs` must hold only plain values and classes"):
        read_kwargs(str({"a": lambda: 0}))


def test_a_policy_is_named_by_alias_or_class():
    policy = PPO.policy_aliases["MoeMlpPolicy"]
    assert class_of(str(policy)) is policy
    assert class_of("MoeMlpPolicy") is None


def test_the_zoo_samples_what_is_not_given_and_makes_it_again_of_what_a_trial_keeps():
    tuning = pytest.importorskip("rl_zoo3.hyperparams_opt", reason="needs the zoo extra")
    import optuna

    for policy, keeps in (("MoeMlpPolicy", True), ("MlpPolicy", False)):
        study = optuna.create_study()
        study.set_user_attr("policy", policy)
        study.set_user_attr("policy_kwargs", "{'router': 'top_k'}")
        sampled = tuning.HYPERPARAMS_SAMPLER["ppo"](trial := study.ask(), 2, 1, {})
        assert ("num_experts" in trial.params) is keeps
        assert (sampled["policy_kwargs"].get("router") == "top_k") is keeps
        assert tuning.HYPERPARAMS_CONVERTER["ppo"](trial.params).items() >= sampled.items()
