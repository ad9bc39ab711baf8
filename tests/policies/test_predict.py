"""Policies whose router predicts: with every algorithm, in files, and while experts come and go."""

import arena
import numpy as np
import pytest
import torch as th
from hidden import Drift, drifts
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import CombinedExtractor
from toy import pinned

import sb3_moe
from sb3_moe.policies.belief import BeliefExtractor
from sb3_moe.policies.networks import networks_of
from sb3_moe.policies.registration import TABLE
from sb3_moe.watching.interventions import without_expert

SMALL = {"net_arch": [8], "placement": "big", "router": "predict", "num_experts": 3}
MIDDLE = {"placement": "middle"}
DENSE = {"placement": "none", "router": "soft", "num_experts": None}
DENSE |= {"features_extractor_class": BeliefExtractor}


def build(algorithm="PPO", **options):
    alias = "MoeMultiInputLstmPolicy" if algorithm == "RecurrentPPO" else "MoeMultiInputPolicy"
    env = drifts(continuous=algorithm in arena.BOX_ACTIONS)
    return arena.make(algorithm, alias, env, **SMALL | options)


@pytest.fixture(scope="module")
def trained():
    return build().learn(64)


@pytest.mark.parametrize("algorithm", [name for name in TABLE if name != "CrossQ"])
def test_models_learn_with_every_algorithm_and_no_optimizer_of_the_policy(algorithm):
    model = build(algorithm)
    belief = model.policy.belief
    before = belief.learning_EP.clone()
    model.learn(64)
    assert not th.equal(belief.learning_EP, before)
    assert model.policy.belief is belief
    extractors = [m for m in model.policy.modules() if isinstance(m, BeliefExtractor)]
    assert {id(each.belief) for each in extractors} == {id(belief)}
    assert sum(each.teaches for each in extractors) == 1
    assert not list(belief.parameters())
    for routing in model.policy.routing(model.env.reset()).values():
        th.testing.assert_close(routing.gates_BNE.sum(-1), th.ones(4, 1))


class Ratio(BaseCallback):
    """Compare the probabilities of a rollout's actions with those that an update begins with."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.locals["rollout_buffer"]
        self.model.policy.set_training_mode(True)
        for rows in buffer.get():
            for _ in range(3):  # the models learn, and the gates stay
                actions = rows.actions.long().flatten()
                _, now, _ = self.model.policy.evaluate_actions(rows.observations, actions)
            th.testing.assert_close(now, rows.old_log_prob)


def test_gates_stay_in_an_update_so_that_ppos_ratio_begins_at_one():
    model = build()
    acting = model.policy.belief.acting_EP.clone()
    model.learn(128, callback=Ratio())
    assert not th.equal(model.policy.belief.acting_EP, acting)


def test_actor_and_critics_route_by_one_belief_and_experts_do_not_see_it(trained):
    obs = trained.env.reset()
    gates = [each.gates_BNE for each in trained.policy.routing(obs).values()]
    assert len(gates) == 2
    assert th.equal(*gates)
    expert = trained.policy.get_expert("pi", 0)
    assert expert[0].in_features == 1
    seeing = build(features_extractor_kwargs={"shown": "both"})
    width = np.prod(Drift(1.0).observation_space["history"].shape)
    assert seeing.policy.get_expert("pi", 0)[0].in_features == 1 + width


def test_a_dense_network_can_see_the_belief():
    models = {"num_models": 5, "predicts": "both", "hidden": [4]}
    model = build(**DENSE, features_extractor_kwargs=models)
    before = model.policy.belief.acting_EP.clone()
    model.learn(128)
    assert model.policy.mlp_extractor.policy_net[0].in_features == 1 + 5
    beside = build(placement={"pi": "big", "vf": "none"})
    assert beside.policy.mlp_extractor.value_net[0].in_features == 1 + 3
    assert not th.equal(model.policy.belief.acting_EP, before)


def test_a_head_for_each_task_is_refused_behind_an_lstm_too():
    with pytest.raises(ValueError, match="`head_router`='task' needs a task id"):
        build("RecurrentPPO", **MIDDLE, head_router="task")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_experts": {"pi": 3, "vf": 2}}, "must be the number of tasks .* 2, .* got 3"),
        ({"task_input": "router"}, "`task_input` must be 'both'"),
        ({"features_extractor_class": CombinedExtractor}, "BeliefExtr"),
        ({"balance_coef": 0.1}, "`balance_coef`=0.1 needs `router` to be one of"),
        ({"top_k": 4}, "must be in"),
        ({"features_extractor_kwargs": {"num_models": 5}}, "`num_models` is the .* got 5"),
        (DENSE | {"features_extractor_kwargs": {"num_models": 0}}, "`num_models` must .* got 0"),
        (MIDDLE | {"head_router": "task"}, "`head_router`='task' needs a task id"),
        (MIDDLE | {"router": {"pi": "predict", "vf": "task"}}, "`router`='task' needs a task id"),
        (MIDDLE | {"task_embedding": 2}, "`task_embedding` must be None, .* `router`='predict'"),
    ],
)
def test_what_does_not_go_with_it_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        build(**options)


def test_observations_without_a_transition_are_refused_with_the_cure():
    short = sb3_moe.make_multitask_vec_env("Conflict/CartPole2", task_id="info", history=1)
    for env in (pinned(), short):
        with pytest.raises(ValueError, match=r"at least 2 steps and no `task_id`.*history=8"):
            PPO("MoeMultiInputPolicy", env, policy_kwargs=SMALL)


def test_a_replay_shows_how_well_models_explain_the_steps_of_which_gates_are_the_posterior(trained):
    [track] = sb3_moe.watch(trained, drifts(), max_steps=4).runs[0].tracks
    assert np.isnan(track.explained_TE[0]).all()
    prior = trained.policy.belief.log_prior(trained.policy.belief.acting_EP).numpy()
    for step, explained in enumerate(track.explained_TE[1:], start=1):
        weights = np.exp(step * explained + prior)  # a transition a step
        np.testing.assert_allclose(track.gates["pi.big"][step], weights / weights.sum(), rtol=1e-4)


LINEAR = {"enable_critic_lstm": False}
JOINED = [("PPO", {}), ("SAC", {}), ("RecurrentPPO", {}), ("RecurrentPPO", LINEAR)]


@pytest.mark.parametrize(("algorithm", "options"), JOINED)
def test_experts_join_and_leave_with_their_models(algorithm, options, tmp_path):
    model = build(algorithm, **options).learn(64)
    obs = model.env.reset()
    before = networks_of(model.policy).outputs(model.policy.obs_to_tensor(obs)[0])
    sb3_moe.add_experts(model, like=0, perturb=0.0)
    assert model.policy.belief.num_models == 4
    after = networks_of(model.policy).outputs(model.policy.obs_to_tensor(obs)[0])
    for network, values in before.items():  # but for the even part of the prior
        th.testing.assert_close(after[network], values, atol=0.02, rtol=0.0)
    model.learn(64)
    kept = model.policy.belief.learning_EP[0].clone()
    sb3_moe.remove_experts(model, [1])
    assert model.policy.belief.num_models == 3
    assert th.equal(model.policy.belief.learning_EP[0, :-1], kept[:-1])
    sb3_moe.save(model, tmp_path / "agent.moe")
    sb3_moe.load(tmp_path / "agent.moe", model.env, device="cpu").learn(32)


def test_experts_stay_where_another_network_sees_the_belief():
    model = build(placement={"pi": "big", "vf": "none"})
    with pytest.raises(ValueError, match="see the belief as an input"):
        sb3_moe.add_experts(model)
    model.learn(32)


def test_idle_experts_stay_as_they_are_where_only_the_likeliest_acts():
    model = build(top_k=1, freeze_idle=True)
    belief = model.policy.belief
    belief.learning_EP[0, -1] = 100.0  # the prior is all for the first
    belief.learning_rate = 0.0
    belief.prior_floor = 1e-6
    layer = next(iter(model.policy.moe_layers().values()))
    before = [each.clone() for each in layer.parameters()]
    model.learn(64)
    for now, own in zip(layer.parameters(), before, strict=True):
        assert not th.equal(now[0], own[0])
        assert th.equal(now[1:], own[1:])


def test_experts_share_the_weight_of_one_that_is_switched_off_even_if_the_belief_is_sure(trained):
    sure = th.tensor([[0.0, 1.0, 0.0]])
    layer = next(iter(trained.policy.moe_layers().values()))
    with without_expert(trained, "pi", 1):
        _, routing = layer(th.zeros(1, 1), sure)
    th.testing.assert_close(routing.weights, th.tensor([[0.5, 0.0, 0.5]]))


def test_models_that_join_leave_what_the_others_say_of_their_tasks():
    model = build().learn(512)
    obs, *_ = [model.env.step([0] * model.n_envs) for _ in range(3)][-1]
    history = model.policy.obs_to_tensor(obs)[0]["history"]
    belief = model.policy.belief

    def said():
        models = (belief.acting_EP, belief.learning_EP)
        return th.stack([belief.log_likelihood(history, each)[0][:3] for each in models])

    before = said()
    sb3_moe.add_experts(model, like=0, perturb=0.0)
    th.testing.assert_close(said(), before)
    acting = belief.acting_EP.clone()
    belief.fit(3, history + 1.0, 20)
    th.testing.assert_close(said(), before)
    assert th.equal(belief.acting_EP, acting)  # no gate changes between a rollout and its update


def test_one_network_alone_can_not_get_experts_of_the_belief_that_it_shares():
    with pytest.raises(ValueError, match="`network` must be None with `router`='predict'"):
        sb3_moe.add_experts(build(), network="pi")
