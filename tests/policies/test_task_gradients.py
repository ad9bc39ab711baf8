"""An actor's gradients of several tasks become one without what conflicts (PCGrad)."""

import arena
import pytest
import reference
import torch as th

from sb3_moe.layers.aux_loss import without_added_losses
from sb3_moe.policies.task_gradients import pcgrad

ROWS = 12
TASKS = th.arange(ROWS) % arena.NUM_TASKS


def make(algorithm="PPO", env=None, **options):
    env = env or arena.Arena(arena.with_task(arena.FLAT), arena.actions_of(algorithm))
    alias = "MoeMultiInputLstmPolicy" if algorithm == "RecurrentPPO" else "MoeMultiInputPolicy"
    return arena.make(algorithm, alias, env, **{"net_arch": [8, 8], **options})


def test_what_conflicts_is_taken_out_by_hand():
    first, second = th.tensor([1.0, 0.0]), th.tensor([-1.0, 1.0])
    # (1, 0) + (-1, 1) / 2, and (-1, 1) + (1, 0).
    assert pcgrad(th.stack([first, second])).tolist() == pytest.approx([0.5, 1.5])
    assert pcgrad(th.stack([first, -second])).tolist() == pytest.approx([2.0, -1.0])
    assert pcgrad(second[None]).tolist() == [-1.0, 1.0]
    assert pcgrad(th.stack([first, 0 * first])).tolist() == [1.0, 0.0]


def outputs_of(policy, obs):
    """Return what an actor hands to losses: its rows, and the critic's where it is asked too."""
    th.manual_seed(3)
    if hasattr(policy, "actor"):
        return policy.actor.action_log_prob(obs), []
    actions = th.arange(ROWS) % 4
    values, *of_actor = policy.evaluate_actions(obs, actions)
    return of_actor, [values]


def gradient(policy, obs, weights, rows=None):
    """Return the gradient of a loss, of all rows or of some rows of the actor alone."""
    of_actor, others = outputs_of(policy, obs)
    th.manual_seed(4)
    parts = [(th.randn(each.shape), each) for each in of_actor]
    if rows is None:
        loss = sum((a * y).sum() for a, y in parts) + sum(y.square().sum() for y in others)
    else:
        loss = sum((a * y)[rows].sum() for a, y in parts)
    th.manual_seed(5)
    found = th.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return th.cat([each.flatten() for each in found])


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        ("PPO", {"placement": "none"}),
        ("PPO", {"placement": "big", "balance_coef": 0.5}),
        ("PPO", {"placement": "middle", "router": "task", "share_features_extractor": False}),
        ("A2C", {"placement": "all", "router": "top_k"}),
        ("SAC", {"placement": "none"}),
        ("TQC", {"placement": "middle", "head_router": "task"}),
    ],
)
def test_weights_get_what_the_slow_algorithm_makes_of_each_tasks_gradient(algorithm, options):
    model = make(algorithm, task_gradients="pcgrad", **options)
    policy = model.policy
    policy.set_training_mode(True)
    owner = getattr(policy, "actor", policy)
    ours, owner.task_gradients = owner.task_gradients, None
    obs = {"obs": th.randn(ROWS, 5), "task_id": TASKS}
    weights = [each for each in owner.parameters() if each.requires_grad]
    plain = gradient(policy, obs, weights)
    with without_added_losses():
        of_tasks = [gradient(policy, obs, weights, k == TASKS) for k in TASKS.unique()]
    owner.task_gradients = ours
    combined = gradient(policy, obs, weights)
    th.manual_seed(5)
    orders = [th.randperm(3).tolist() for _ in of_tasks]
    expected = plain - sum(of_tasks) + reference.pcgrad(of_tasks, orders)
    assert not th.allclose(expected, plain, atol=1e-3)
    th.testing.assert_close(combined, expected, atol=1e-5, rtol=1e-4)
    policy.set_training_mode(False)  # as whoever measures gradients does
    added_up = gradient(policy, obs, weights, ...)
    th.testing.assert_close(added_up, sum(of_tasks), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("algorithm", "value", "message"),
    [
        ("TD3", "pcgrad", "`task_gradients`='pcgrad' needs an actor that draws .* 'pi'"),
        ("DQN", "pcgrad", "`task_gradients`='pcgrad' needs an actor .* 'qf' of sb3_moe.policies.d"),
        ("PPO", {"vf": "pcgrad"}, "`task_gradients`='pcgrad' needs an actor .* 'vf'"),
        ("TRPO", "pcgrad", "`task_gradients` must be None for TRPO"),
        ("PPO", "sum", "`task_gradients` must be one of .*'pcgrad'.*got 'sum'"),
    ],
)
def test_it_is_refused_where_nothing_would_come_of_it(algorithm, value, message):
    with pytest.raises(ValueError, match=message):
        make(algorithm, task_gradients=value)


def test_it_needs_a_task_id():
    with pytest.raises(ValueError, match="`task_gradients` needs a task id in the observation"):
        arena.make("PPO", "MoeMlpPolicy", arena.Arena(arena.FLAT), task_gradients="pcgrad")
