"""Policies that see a belief: experts that it weighs, heads, embeddings, and what is refused."""

import arena
import numpy as np
import pytest
import torch as th
from hidden import drifts
from toy import pinned

import sb3_moe
from sb3_moe.layers import BeliefMoE
from sb3_moe.policies.registration import TABLE
from sb3_moe.vec_env import VecBelief
from sb3_moe.watching.interventions import without_expert

BIG = {"net_arch": [8], "placement": "big", "router": "belief"}
SOFT = {"net_arch": [8], "placement": "middle", "router": "soft", "num_experts": 2}


def build(algorithm="PPO", env=None, **options):
    alias = "MoeMultiInputLstmPolicy" if algorithm == "RecurrentPPO" else "MoeMultiInputPolicy"
    env = env or drifts(continuous=algorithm in arena.BOX_ACTIONS)
    return arena.make(algorithm, alias, env, **BIG | options)


@pytest.fixture(scope="module")
def trained():
    return build().learn(64)


@pytest.mark.parametrize("algorithm", [name for name in TABLE if name != "CrossQ"])
def test_every_algorithm_learns_with_experts_that_a_belief_weighs(algorithm):
    model = build(algorithm).learn(64)
    obs = model.env.reset()
    gates = [each.gates_BNE for each in model.policy.routing(obs).values()]
    assert gates
    for each in gates:
        np.testing.assert_allclose(each[:, 0].cpu(), obs["belief"], rtol=1e-5)


def test_experts_do_not_see_the_belief_unless_they_are_asked_to(trained):
    assert trained.policy.get_expert("pi", 0)[0].in_features == 1
    assert build(task_input="both").policy.get_expert("pi", 0)[0].in_features == 1 + 3


def test_experts_share_the_weight_of_one_that_is_switched_off_even_if_the_belief_is_sure(trained):
    sure = th.tensor([[0.0, 1.0, 0.0]])
    layer = next(iter(trained.policy.moe_layers().values()))
    with without_expert(trained, "pi", 1):
        _, routing = layer(th.zeros(1, 1), sure)
    th.testing.assert_close(routing.weights, th.tensor([[0.5, 0.0, 0.5]]))


def test_idle_experts_stay_as_they_are_where_only_the_likeliest_acts():
    env = drifts(training=False, prior_floor=1e-6)
    env.models.shares_E[:] = [1.0, 0.0, 0.0]
    model = build(env=env, top_k=1, freeze_idle=True)
    layer = next(iter(model.policy.moe_layers().values()))
    before = [each.clone() for each in layer.parameters()]
    model.learn(64)
    for now, own in zip(layer.parameters(), before, strict=True):
        assert not th.equal(now[0], own[0])
        assert th.equal(now[1:], own[1:])


# Whatever takes a task id takes a belief.


def values(policy, belief):
    """Return the critic's values of one observation with some beliefs."""
    obs = {"obs": th.zeros(len(belief), 1), "belief": th.as_tensor(belief)}
    return policy.predict_values(obs).detach()


SURE, MIXED = np.eye(3, dtype=np.float32), np.float32([[0.2, 0.5, 0.3]])


def test_a_belief_weighs_the_heads_of_its_models():
    policy = build(**SOFT, head_router="task", task_input="none").policy
    heads = [layer for layer in policy.moe_layers().values() if isinstance(layer, BeliefMoE)]
    assert [layer.num_experts for layer in heads] == [3, 3]
    th.testing.assert_close(values(policy, MIXED), th.tensor(MIXED) @ values(policy, SURE))


def test_a_belief_weighs_the_embeddings_of_its_models():
    policy = build(**SOFT, task_embedding=2, task_input="experts").policy
    assert policy.get_expert("vf", 0)[0].in_features == 1 + 2
    for embedding in (m.weight_KW.data for m in policy.modules() if hasattr(m, "weight_KW")):
        embedding[2] = 0.4 * embedding[0] + 0.6 * embedding[1]
    mixed = np.float32([[0.4, 0.6, 0.0]])
    th.testing.assert_close(values(policy, mixed), values(policy, SURE[2:]))
    assert not th.allclose(values(policy, SURE[:1]), values(policy, SURE[1:2]))


@pytest.mark.parametrize(
    ("shown", "widths"),
    [("both", (4, 4)), ("router", (1, 4)), ("experts", (4, 1)), ("none", (1, 1))],
)
def test_task_input_says_who_sees_the_belief(shown, widths):
    policy = build(**SOFT | {"router": "top_k"}, task_input=shown).policy
    router = policy.moe_layers()["vf.middle"].router
    assert (policy.get_expert("vf", 0)[0].in_features, router.weight_RK.shape[0]) == widths


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_experts": 4}, "must be the number of tasks or of a belief's models, 3, .* got 4"),
        ({"task_input": "experts"}, "`task_input` must be 'both' or 'router'"),
        ({"balance_coef": 0.1}, "`balance_coef`=0.1 needs `router` to be one of"),
        ({"top_k": 4}, "must be in"),
        ({"router_kwargs": {"temperature": 0.0}}, r"`temperature` must be in \(0, "),
        ({"router": {"pi": "belief", "vf": "task"}}, "'task' needs the true task id, and there"),
        (SOFT | {"task_gradients": "pcgrad"}, "`task_gradients` .*task"),
    ],
)
def test_what_does_not_go_with_a_belief_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        build(**options)


def test_temperatures_by_task_need_the_true_task():
    with pytest.raises(ValueError, match="`ent_coef_per_task`=True needs a task id"):
        build("SAC", model={"ent_coef": 1.0}, ent_coef_per_task=True)


def test_observations_must_have_a_belief_and_no_task_id():
    with pytest.raises(ValueError, match=r"needs a belief in the observation, which .*belief="):
        build(env=pinned())
    with pytest.raises(ValueError, match=r"take a task id or a belief, and this .* has both"):
        build(env=VecBelief(pinned(), 3))


def test_experts_neither_join_nor_leave_but_wait_with_a_spare_model(trained):
    said = r"exactly one expert for each model of the belief in .*VecBelief\(active=2\)"
    for change in (sb3_moe.add_experts, lambda model: sb3_moe.remove_experts(model, [0])):
        with pytest.raises(ValueError, match=said):
            change(trained)


# What looks into a model.


def test_a_replay_shows_the_belief_of_the_training_environments_models(trained):
    env = drifts()
    [track] = sb3_moe.watch(trained, env, max_steps=4).runs[0].tracks
    assert env.models is trained.env.models
    np.testing.assert_allclose(track.gates["pi.big"], track.belief_TE, rtol=1e-5)
