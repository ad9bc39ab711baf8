"""Plasticity and routing, followed on observations of every task."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from learners import learner
from stable_baselines3 import PPO
from tiny import Steps
from toy import pinned, toy_vec_env

import sb3_moe
from sb3_moe.callbacks import PlasticityCallback, RoutingCallback, collect_probe
from sb3_moe.measures import load_entropy
from sb3_moe.policies.on_policy import MoeMultiInputPolicy


def make_ppo(policy=MoeMultiInputPolicy, **kwargs):
    return learner(PPO, toy_vec_env((0, 1, 2)), policy, **kwargs)


def probe(size=12):
    return collect_probe(pinned(), size)


def test_a_probe_holds_equally_many_observations_of_each_task():
    batches = probe(14)
    assert [batch["task_id"].tolist() for batch in batches] == [[0] * 4, [1] * 4, [2] * 4]
    assert batches[0]["obs"].shape == (4, 6)


def test_every_layer_and_network_is_measured_before_during_and_after(tmp_path):
    callback = PlasticityCallback(64, probe=probe(), log_path=tmp_path, ntk_size=6)
    model = make_ppo().learn(128, callback=callback)
    model.learn(0, callback, reset_num_timesteps=False)  # nothing is measured twice
    with np.load(tmp_path / "diagnostics.npz") as saved:
        assert saved["steps"].tolist() == [0, 64, 128]
        for layer in ("pi.0", "pi.1", "vf.0", "vf.1"):
            assert saved[f"dormant/{layer}"].shape == (3,)
            assert saved[f"dormant_per_task/{layer}"].shape == (3, 3)
            assert np.isfinite(saved[f"effective_rank/{layer}"]).all()
        # The last hidden layer is the mixture.
        assert "dormant_per_expert/pi.1" in saved
        assert "dormant_per_expert/pi.0" not in saved
        for network in ("pi", "vf"):
            assert np.isfinite(saved[f"ntk_rank/{network}"]).all()
            # Nothing has moved, and there are no gradients, before training.
            assert np.isnan(saved[f"weight_change/{network}"]).tolist() == [True, False, False]
            assert np.isnan(saved[f"gradient_norm/{network}"]).tolist() == [True, False, False]


def test_a_task_router_is_fully_specialized():
    model = make_ppo(policy_kwargs={"router": "task"})
    callback = RoutingCallback(10_000, probe=probe())
    model.learn(32, callback=callback)
    assert callback.diagnostics["specialization/pi.middle"][0] == pytest.approx(1.0)
    assert callback.diagnostics["entropy/pi.middle"][0] == pytest.approx(1.0)
    np.testing.assert_allclose(callback.diagnostics["gates/pi.middle"][0], np.eye(3))


def test_a_network_that_diverged_has_no_measures_and_does_not_end_the_run():
    model = make_ppo()
    callback = RoutingCallback(10_000, probe=probe())
    with th.no_grad():
        for weights in model.policy.moe_layers()["vf.middle"].parameters():
            weights.fill_(th.nan)
    model.learn(0, callback=callback)
    for kind in ("entropy", "specialization", "agreement", "gates", "load"):
        assert np.isnan(callback.diagnostics[f"{kind}/vf.middle"]).all()
        assert np.isfinite(callback.diagnostics[f"{kind}/pi.middle"]).all()


def test_load_is_the_share_of_choices_and_gates_are_the_weights():
    model = make_ppo(policy_kwargs={"router": "top_k", "num_experts": 2})
    weight_RK = model.policy.moe_layers()["pi.middle"].router.weight_RK.data
    weight_RK[:] = 0.0
    # The id comes last: a and b choose the first expert, c, by a larger score, the second.
    weight_RK[-3:] = th.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    callback = RoutingCallback(10_000, probe=probe())
    model.learn(0, callback=callback)
    weak, strong = 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-3))
    found = callback.diagnostics
    expected = [[weak, 0], [weak, 0], [0, strong]]
    np.testing.assert_allclose(found["gates/pi.middle"][0], expected, rtol=1e-6)
    np.testing.assert_allclose(found["load/pi.middle"][0], [2 / 3, 1 / 3], rtol=1e-6)
    assert found["entropy/pi.middle"][0] == pytest.approx(load_entropy([2, 1]))


def test_a_picture_of_the_gates_goes_to_tensorboard(tmp_path):
    model = make_ppo(tensorboard_log=str(tmp_path))
    model.learn(32, callback=RoutingCallback(64, probe=probe()))
    assert b"moe/gates/pi.middle" in next(tmp_path.rglob("events*")).read_bytes()


def test_measuring_leaves_training_the_same_bit_for_bit():
    alone = make_ppo().learn(128)
    watched = make_ppo()
    watched.learn(
        128, callback=[PlasticityCallback(32, probe=probe()), RoutingCallback(32, probe=probe())]
    )
    for one, other in zip(alone.policy.parameters(), watched.policy.parameters(), strict=True):
        assert th.equal(one, other)


def test_routing_of_a_dense_policy_is_refused_with_the_call_that_has_one():
    with pytest.raises(ValueError, match=r"as in PPO\('MoeMlpPolicy', env\)"):
        make_ppo("MultiInputPolicy").learn(32, callback=RoutingCallback(32, probe=probe()))


def test_a_callback_that_is_used_again_looks_at_each_model_on_observations_of_its_own():
    callback = PlasticityCallback(32, probe_size=8, ntk_size=0)
    for env_id, width in (("CartPole-v1", 4), ("Acrobot-v1", 6)):
        PPO("MlpPolicy", env_id, n_steps=32, batch_size=32, n_epochs=1).learn(64, callback)
        (batch,) = callback.batches()
        assert batch.shape == (8, width)
        # Since the measurement before, of which a model's first has none.
        assert np.isnan(callback.diagnostics["weight_change/pi"]).tolist() == [True, False]


def test_a_probe_of_other_tasks_is_refused():
    with pytest.raises(ValueError, match=r"one batch for each of \['a', 'b', 'c'\]"):
        make_ppo().learn(32, callback=PlasticityCallback(32, probe=probe()[:2]))


class Echo(Steps):
    """Shows the last action; whoever is told may take only the second one."""

    action_space = spaces.Discrete(3)
    action = 0

    def step(self, action):
        self.action = action
        return super().step(action)

    def observe(self):
        return np.full(2, self.action, np.float32)

    def action_masks(self):
        return np.array([False, True, False])


def echoes():
    return sb3_moe.make_multitask_vec_env([Echo, Echo], 2, seed=0)


def test_the_probe_is_of_states_to_which_the_agent_itself_comes():
    callback = RoutingCallback(16, probe_size=12)
    model = learner(PPO, echoes()).learn(32, callback)
    for action in range(3):
        model.policy.action_net.bias.data = 1e3 * th.eye(3)[action]
        assert all((batch["obs"] == action).all() for batch in callback.batches())


def test_the_probe_of_a_policy_that_takes_masks_is_played_with_them():
    contrib = pytest.importorskip("sb3_contrib")
    callback = PlasticityCallback(8, probe_size=4)
    sizes = {"n_steps": 8, "batch_size": 8, "seed": 0}
    contrib.MaskablePPO("MoeMultiInputPolicy", echoes(), **sizes).learn(8, callback)
    assert all((batch["obs"] == 1).all() for batch in callback.batches())
