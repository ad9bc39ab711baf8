"""Which model of the environment explains the last steps, and the gates that follow from it."""

import pytest
import reference
import torch as th
from torch import nn

from sb3_moe.layers import Belief, PredictMoE, RouterInput, StackedNetwork

D, A, ROWS = 2, 3, 4


def histories(batch, *, padded=()):
    """Return random histories (B, K, W), with padding before the last rows of some."""
    x = 0.5 * th.randn(batch, ROWS, D + A + 2)
    x[..., -1] = 1.0
    for sample, rows in enumerate(padded):
        x[sample, :rows] = 0.0
    return x


def world(slope, episodes, steps=5):
    """Return histories of x' = x + slope * a, with a of 1 and -1 in turn by chance."""
    actions = th.randint(0, 2, (episodes, steps)) * 2.0 - 1.0
    actions[:, 0] = 0.0
    x = th.randn(episodes, 1) + slope * actions.cumsum(1)
    ones, zeros = th.ones_like(x), th.zeros_like(x)
    return th.stack([x, actions, zeros, ones], dim=-1)


@pytest.mark.parametrize("hidden", [(), (5, 4)])
@pytest.mark.parametrize("predicts", ["transition", "reward", "both"])
def test_likelihood_belief_and_gradient_are_those_of_the_slow_version(predicts, hidden):
    th.manual_seed(0)
    belief = Belief(D, A, 3, hidden=hidden, predicts=predicts, max_grad_norm=1e6)
    belief.learning_EP += 0.05 * th.randn_like(belief.learning_EP)
    belief.between_updates()
    history_BKW = histories(4, padded=(0, 1, ROWS - 1))
    models_EP = belief.learning_EP.clone().requires_grad_()
    slow = [reference.log_joint(belief, models_EP, each) for each in history_BKW.tolist()]
    joint_BE = th.stack([joint for joint, _ in slow])
    th.testing.assert_close(belief(history_BKW), joint_BE.softmax(1))

    loss = -joint_BE.logsumexp(1).sum() / sum(transitions for _, transitions in slow)
    (grad_EP,) = th.autograd.grad(loss, models_EP)
    belief.learn(history_BKW)
    th.testing.assert_close(belief.mean_EP, 0.1 * grad_EP)  # Adam's average after one step
    # Whose first step is as long as the learning rate, in the gradient's direction.
    moved_EP = belief.learning_EP - models_EP.detach()
    th.testing.assert_close(moved_EP, -3e-3 * grad_EP.sign(), atol=1e-4, rtol=0.0)


def test_two_linear_systems_are_told_apart_by_the_odds_worked_out_by_hand():
    belief = Belief(1, 1, 2, min_variance=0.5)
    # Of (x, a, 1): the change is a in the one and -a in the other; exp(log 0.5) + 0.5 = 1.
    log_half = th.tensor(0.5).log().item()
    belief.acting_EP.copy_(
        th.tensor([[0.0, 1.0, 0.0, log_half, 0.0], [0.0, -1.0, 0.0, log_half, 0.0]])
    )
    one_step = th.tensor([[[0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 1.0]]])
    # The errors are 0 and 2, so the odds are exp(2 ** 2 / 2) to 1; after a second such step e^4.
    odds = th.tensor(2.0).exp()
    th.testing.assert_close(belief(one_step)[0], th.stack([odds, odds / odds]) / (odds + 1))
    two_steps = th.cat([one_step, th.tensor([[[2.0, 1.0, 0.0, 1.0]]])], dim=1)
    th.testing.assert_close(belief(two_steps)[0, 0], odds**2 / (odds**2 + 1))


def test_the_first_step_of_an_episode_gives_the_prior_with_its_floor():
    belief = Belief(D, A, 2, prior_floor=0.2)
    belief.acting_EP[:, -1] = th.tensor([100.0, 0.0])
    first = histories(3, padded=(ROWS - 1,) * 3)
    th.testing.assert_close(belief(first), th.tensor([[0.9, 0.1]]).expand(3, 2))


def test_padding_teaches_nothing_and_the_belief_follows_between_updates():
    belief = Belief(D, A, 2)
    before = belief.learning_EP.clone()
    belief.learn(th.zeros(8, ROWS, D + A + 2))
    assert th.equal(belief.learning_EP, before)
    history_BKW = histories(8)
    own = belief(history_BKW)
    belief.learn(history_BKW)
    assert not th.equal(belief.learning_EP, before)
    assert th.equal(belief(history_BKW), own)
    belief.between_updates()
    assert not th.equal(belief(history_BKW), own)


def test_a_model_whose_task_is_away_stays_as_it_is():
    th.manual_seed(0)
    belief = Belief(1, 1, 2, learning_rate=0.03)
    for _ in range(200):
        belief.learn(th.cat([world(1.0, 32), world(-1.0, 32)]))
    belief.between_updates()
    away = int(belief(world(-1.0, 1))[0].argmax())
    before = belief.learning_EP.clone()
    for _ in range(20):
        belief.learn(world(1.0, 32))
    assert th.equal(belief.learning_EP[away], before[away])
    assert not th.equal(belief.learning_EP[1 - away], before[1 - away])


def test_models_can_be_made_of_others_or_anew():
    belief = Belief(D, A, 2)
    belief.learn(histories(8))
    old = belief.learning_EP.clone()
    belief.remake([({0: 0.5, 1: 0.5}, {0: 1.0, 1: 0.5}), ({1: 1.0}, {1: 0.5}), ({}, {})], 2.0)
    th.testing.assert_close(belief.learning_EP[0, :-1], old.mean(0)[:-1])
    assert th.equal(belief.learning_EP[1, :-1], old[1, :-1])
    odds = (old[:, -1] / 2).exp() @ th.tensor([[1.0, 0.0], [0.5, 0.5]])
    th.testing.assert_close((belief.learning_EP[:2, -1] / 2).exp(), odds)
    assert th.equal(belief.learning_EP[2, :-3], belief.acting_EP[2, :-3])
    for models_EP in (belief.learning_EP, belief.acting_EP):  # one log-variance for all
        assert th.equal(models_EP[2, -3:-1], models_EP[0, -3:-1])
    assert belief.steps_E.tolist() == [1.0, 1.0, 0.0]


def layer_of(num_experts, **options):
    experts = StackedNetwork([nn.Linear(D, 1) for _ in range(num_experts)])
    return PredictMoE(
        experts, RouterInput(features=num_experts, num_experts=num_experts), **options
    )


def test_gates_are_the_belief_at_a_temperature_and_of_the_likeliest_experts():
    x, belief = th.randn(1, D), th.tensor([[0.1, 0.3, 0.6]])
    _, plain = layer_of(3).route(x, belief)
    th.testing.assert_close(plain.weights, belief)
    th.testing.assert_close(plain.probs_BNE[:, 0], belief)
    _, warm = layer_of(3, temperature=2.0).route(x, belief)
    th.testing.assert_close(warm.weights, belief.sqrt() / belief.sqrt().sum())
    _, two = layer_of(3, top_k=2).route(x, belief)
    th.testing.assert_close(two.weights, th.tensor([[0.0, 1 / 3, 2 / 3]]))
    assert two.experts.tolist() == [[2, 1]]
