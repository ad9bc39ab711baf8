"""A replay of 1,000 MinAtar steps with three mixtures is small, and is recorded fast."""

import time

import pytest
from stable_baselines3 import PPO

import sb3_moe
from sb3_moe.presets import MINATAR_PPO, with_policy

pytest.importorskip("gymnax", reason="needs the minatar extra")


def test_a_thousand_steps_of_minatar_take_little_room_and_time():
    env = sb3_moe.make_multitask_vec_env(["sb3_moe_envs:SB3MoE/MinAtar-Breakout-v1"], seed=0)
    options = {"placement": {"pi": "all", "vf": "none"}, "num_experts": 4}
    arguments = with_policy(MINATAR_PPO, **options) | {"n_steps": 1024}
    model = PPO("MoeMultiInputPolicy", env, seed=0, device="cpu", **arguments)
    play = {"episodes": 1000, "deterministic": False}
    sb3_moe.watch(model, max_steps=2, **play)  # compiles
    # Of this process alone: others share the cores.
    start = time.process_time()
    replay = sb3_moe.watch(model, max_steps=1000, **play)
    seconds = time.process_time() - start
    assert len(replay.mixtures) == 3
    assert len(replay.runs[0].tracks[0]) == 1000
    assert seconds < 10
    assert len(replay.to_html()) < 4e6
