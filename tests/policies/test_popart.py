"""Values that are normalized for each task: statistics, heads that follow, and whole updates."""

import arena
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th

import sb3_moe
from sb3_moe import presets
from sb3_moe.callbacks import PopArtCallback, TaskAdvantageCallback

HEADS = {"head_router": {"vf": "task"}, "popart": True}


def make(algorithm="PPO", alias="MoeMultiInputPolicy", **options):
    env = arena.Arena(arena.with_task(arena.FLAT), arena.actions_of(algorithm))
    return arena.make(algorithm, alias, env, **{"placement": "none", "net_arch": [8], **options})


def follow(popart, returns, tasks, rate):
    popart.follow(th.tensor(returns), th.tensor(tasks), rate)


def test_statistics_are_those_of_the_returns_by_task():
    popart = make(**HEADS).policy.popart
    follow(popart, [1.0, 3.0, 10.0], [0, 0, 2], rate=0.5)
    assert popart.mean_K.tolist() == [2.0, 0.0, 10.0]
    assert popart.deviation_K.tolist() == pytest.approx([1.0, 1.0, 1e-4])
    # Two returns at rate .5 weigh .75, and the first two, which weighed that too, now .25 of it.
    follow(popart, [6.0, 6.0], [0, 0], rate=0.5)
    weight = 0.75 / (0.75 + 0.25 * 0.75)
    assert popart.mean_K[0].item() == pytest.approx(2.0 + weight * 4.0)
    square = 5.0 + weight * 31.0
    assert popart.deviation_K[0].item() == pytest.approx((square - popart.mean_K[0] ** 2) ** 0.5)


def test_a_small_deviation_of_large_returns_is_found():
    popart, drawn = make(**HEADS).policy.popart, np.random.default_rng(0)
    for _ in range(50):
        popart.follow(th.tensor(drawn.normal(1e5, 1, 2048)).float(), th.zeros(2048).long(), 3e-4)
    assert popart.deviation_K[0].item() == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(
    "options",
    [HEADS, {"placement": "big", "router": "task", "popart": True}],
    ids=["heads", "whole networks"],
)
def test_values_stay_when_statistics_move(options):
    model = make(**options)
    policy, obs = model.policy, model.policy.obs_to_tensor(arena.observe(model, 9))[0]
    tasks = [0, 0, 1, 1, 2, 2]
    follow(policy.popart, [3.0, 2.0, -2.0, 1.0, 5.0, 7.0], tasks, rate=0.3)
    before = policy.predict_values(obs)
    outputs = policy.evaluate_actions(obs, th.zeros(9))[0]
    follow(policy.popart, [10.0, 4.0, -5.0, 0.0, 30.0, 9.0], tasks, rate=0.3)
    th.testing.assert_close(policy.predict_values(obs), before, atol=1e-6, rtol=1e-6)
    assert not th.allclose(policy.evaluate_actions(obs, th.zeros(9))[0], outputs)


@pytest.mark.parametrize(
    ("algorithm", "alias"),
    [("PPO", "MoeMultiInputPolicy"), ("RecurrentPPO", "MoeMultiInputLstmPolicy")],
)
def test_an_update_learns_normalized_values_of_rewards(algorithm, alias):
    model = make(algorithm, alias, **HEADS)
    found = {}

    class Look(PopArtCallback):
        def _on_rollout_end(self):
            buffer = self.model.rollout_buffer
            found["before"] = buffer.returns.copy(), buffer.values.copy()
            super()._on_rollout_end()
            found["after"] = buffer.returns.copy(), buffer.values.copy()
            obs = {
                key: each.reshape(-1, *each.shape[2:]) for key, each in buffer.observations.items()
            }
            found["tasks"] = self.model.policy.popart.tasks(
                self.model.policy.obs_to_tensor(obs)[0]
            ).numpy()

    model.learn(64, callback=Look(rate=0.1))
    popart, tasks = model.policy.popart, found["tasks"]
    mean, deviation = (each.numpy()[tasks] for each in (popart.mean_K, popart.deviation_K))
    for before, after in zip(found["before"], found["after"], strict=True):
        slow = (before.flatten() - mean) / deviation
        np.testing.assert_allclose(after.flatten(), slow, rtol=1e-4, atol=1e-4)
    assert popart.mean_K.any()


def test_files_hold_the_statistics(tmp_path):
    model = make(**HEADS)
    model.learn(32, callback=PopArtCallback())
    sb3_moe.save(model, tmp_path / "agent.moe")
    again = sb3_moe.load(tmp_path / "agent.moe", device="cpu").policy.popart
    assert th.equal(again.mean_K, model.policy.popart.mean_K)
    assert th.equal(again.variance_K, model.policy.popart.variance_K)


def test_the_balanced_preset_trains():
    env = sb3_moe.make_multitask_vec_env("Classic/CartPole4", n_envs=4, seed=0)
    model = sb3.PPO("MoeMultiInputPolicy", env, n_steps=16, batch_size=32, **presets.BALANCED_PPO)
    model.learn(64, callback=[TaskAdvantageCallback(), PopArtCallback()])
    assert model.policy.popart.mean_K.all()


def test_without_heads_or_its_callback_popart_is_refused():
    with pytest.raises(ValueError, match="`popart`=True needs a critic with a head for each task"):
        make(popart=True)
    trained = make(**HEADS).learn(64, PopArtCallback())
    for model in (make(**HEADS), trained):
        with pytest.raises(RuntimeError, match=r"`popart`=True needs learn\(..., callback=PopArt"):
            model.learn(64)
    with pytest.raises(ValueError, match=r"policy_kwargs=dict\(popart=True\)"):
        make().learn(32, callback=PopArtCallback())
    with pytest.raises(ValueError, match="`popart` must be False for TRPO"):
        make("TRPO", **HEADS)
    with pytest.raises(ValueError, match=r"`rate` must be in \(0, 1"):
        PopArtCallback(rate=2.0)
