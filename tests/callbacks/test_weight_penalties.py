"""Penalties on weights: the gradients that they add, and what they leave alone."""

import pytest
import reference
import torch as th
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback
from toy import toy_vec_env

from sb3_moe.callbacks import L2InitCallback, SparseTrainingCallback, WeightNormDecayCallback
from sb3_moe.policies.masks import masks_in
from sb3_moe.policies.networks import networks_of


def make(algo=PPO, policy="MlpPolicy", env=None, **kwargs):
    options = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "max_grad_norm": 1e9}
    if algo is not PPO:
        options = {"learning_starts": 8, "buffer_size": 64, "batch_size": 8, "train_freq": 1}
    env = env or ("Pendulum-v1" if algo is SAC else "CartPole-v1")
    options |= {"policy_kwargs": {"net_arch": [8, 6]}, "device": "cpu", "seed": 0}
    return algo(policy, env, **(options | kwargs))


class Record(BaseCallback):
    """Keep weight, gradient of the loss, and what the optimizer gets, parameter by parameter."""

    def _on_training_start(self):
        self.of_loss, self.rows, self.start, self.handles = {}, [], {}, []
        for optimizer in networks_of(self.model.policy).every_optimizer():
            self.handles.append(optimizer.register_step_pre_hook(self._note))
            for p in optimizer.param_groups[0]["params"]:
                self.start[p] = p.detach().clone()
                self.handles.append(p.register_post_accumulate_grad_hook(self._keep))

    def _keep(self, parameter):
        self.of_loss[parameter] = parameter.grad.clone()

    def _note(self, optimizer, *args):
        for p in optimizer.param_groups[0]["params"]:
            if p in self.of_loss:
                self.rows.append((p, p.detach().clone(), self.of_loss[p], p.grad.clone()))

    def _on_training_end(self):
        for handle in self.handles:
            handle.remove()

    def _on_step(self):
        return True


@pytest.mark.parametrize("kind", [L2InitCallback, WeightNormDecayCallback])
@pytest.mark.parametrize(
    ("algo", "policy"), [(PPO, "MoeMlpPolicy"), (DQN, "MlpPolicy"), (SAC, "MlpPolicy")]
)
def test_gradients_are_those_of_a_penalty_in_the_loss(algo, policy, kind):
    record = Record()
    make(algo, policy).learn(32, [record, kind(0.3)])
    assert len(record.rows) > 20
    moved = 0
    for parameter, weight, of_loss, seen in record.rows:
        start = record.start[parameter] if kind is L2InitCallback else th.zeros_like(weight)
        weight = weight.requires_grad_()
        penalty = reference.weight_penalty([weight], [start], 0.3)
        th.testing.assert_close(seen, of_loss + th.autograd.grad(penalty, weight)[0])
        moved += not th.equal(seen, of_loss)
    assert moved > 10


def test_the_penalty_is_logged_before_an_update_and_leaves_no_hook_behind():
    model = make(learning_rate=0.0)
    expected = sum(p.square().sum() for p in model.policy.parameters()).item()
    model.learn(16, WeightNormDecayCallback(0.5), log_interval=10**6)
    assert not any(each._post_accumulate_grad_hooks for each in model.policy.parameters())
    logged = model.logger.name_to_value["plasticity/penalty/weight_norm"]
    assert logged == pytest.approx(0.25 * expected, rel=1e-5)


def test_weights_of_frozen_experts_are_not_in_the_penalty_that_is_logged():
    frozen = {"net_arch": [8], "num_experts": 2, "frozen_experts": {"pi": [0], "vf": [0]}}
    model = make(policy="MoeMlpPolicy", learning_rate=0.0, policy_kwargs=frozen)
    of_all = sum(p.square().sum() for p in model.policy.parameters()).item()
    stacked = [
        p for layer in model.policy.moe_layers().values() for p in layer.experts.parameters()
    ]
    of_frozen = sum(p[0].square().sum() for p in stacked).item()
    model.learn(16, WeightNormDecayCallback(0.5), log_interval=10**6)
    logged = model.logger.name_to_value["plasticity/penalty/weight_norm"]
    assert logged == pytest.approx(0.25 * (of_all - of_frozen), rel=1e-5)


def test_an_expert_without_rows_stays_as_it_is_bit_for_bit():
    kwargs = {"router": "task", "net_arch": [8]}
    model = make(DQN, "MoeMultiInputPolicy", toy_vec_env((0,)), policy_kwargs=kwargs)
    weight = model.policy.moe_layers()["qf.middle"].experts.layers[0].weight
    before = weight.detach().clone()
    model.learn(30, WeightNormDecayCallback(1.0))
    assert th.equal(weight[1:], before[1:])
    assert not th.equal(weight[0], before[0])


@pytest.mark.parametrize("sparse_first", [True, False])
def test_dead_weights_of_a_sparse_network_are_not_drawn_anywhere(sparse_first):
    record, callbacks = Record(), [L2InitCallback(0.3), SparseTrainingCallback(0.5)]
    model = make()
    model.learn(48, [record, *(callbacks if sparse_first else callbacks[::-1])])
    masks = masks_in(model.policy.optimizer)
    assert masks
    assert not any(seen[~masks[p]].any() for p, _, _, seen in record.rows if p in masks)
