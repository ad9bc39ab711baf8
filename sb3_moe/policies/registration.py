"""The table of policies for each algorithm; importing ``sb3_moe`` registers them with SB3."""

from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

ALL_LSTM = ("MoeMlpLstmPolicy", "MoeCnnLstmPolicy", "MoeMultiInputLstmPolicy")
ALL = ("MoeMlpPolicy", "MoeCnnPolicy", "MoeMultiInputPolicy")


class Entry(NamedTuple):
    """Where an algorithm and its MoE policies live.

    :param algorithm: ``module:Class`` of the algorithm
    :param policies: module of its policies
    :param aliases: policy names; each is the class of that name in ``policies``
    """

    algorithm: str
    policies: str
    aliases: tuple[str, ...] = ALL


TABLE = {
    "PPO": Entry("stable_baselines3:PPO", "sb3_moe.policies.on_policy"),
    "A2C": Entry("stable_baselines3:A2C", "sb3_moe.policies.on_policy"),
    "DQN": Entry("stable_baselines3:DQN", "sb3_moe.policies.dqn"),
    "SAC": Entry("stable_baselines3:SAC", "sb3_moe.policies.sac"),
    "TD3": Entry("stable_baselines3:TD3", "sb3_moe.policies.td3"),
    "DDPG": Entry("stable_baselines3:DDPG", "sb3_moe.policies.td3"),
    "TRPO": Entry("sb3_contrib:TRPO", "sb3_moe.policies.contrib.trpo"),
    "MaskablePPO": Entry("sb3_contrib:MaskablePPO", "sb3_moe.policies.contrib.ppo_mask"),
    "RecurrentPPO": Entry(
        "sb3_contrib:RecurrentPPO", "sb3_moe.policies.contrib.ppo_recurrent", ALL_LSTM
    ),
    "QRDQN": Entry("sb3_contrib:QRDQN", "sb3_moe.policies.contrib.qrdqn"),
    "TQC": Entry("sb3_contrib:TQC", "sb3_moe.policies.contrib.tqc"),
    "CrossQ": Entry("sb3_contrib:CrossQ", "sb3_moe.policies.contrib.crossq", ("MoeMlpPolicy",)),
}


def register() -> None:
    """Add our aliases to every algorithm that is installed; ours never replace SB3's."""
    for entry in TABLE.values():
        module, name = entry.algorithm.split(":")
        if find_spec(module) is None:
            continue
        algorithm = getattr(import_module(module), name)
        policies = import_module(entry.policies)
        ours = {alias: getattr(policies, alias) for alias in entry.aliases}
        # A new dict: PPO and A2C must not share one that either could change.
        algorithm.policy_aliases = {**algorithm.policy_aliases, **ours}
