"""Routing by prediction: gates tell how well each expert's model predicts an episode's last steps.

The idea is that of MOSAIC (Haruno, Wolpert and Kawato 2001) and of multiple model-based
reinforcement learning (Doya et al. 2002).

Shapes: B batch, K rows of a history, W numbers in a row, T = K - 1 transitions, N = B*T,
D numbers of an observation, A of an action, I = D + A inputs and O outputs of a model, E experts
with a model each, P numbers of a model.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch as th
from torch import Tensor, nn

from sb3_moe.layers.checks import number, one_of, whole, widths
from sb3_moe.layers.experts import Experts
from sb3_moe.layers.moe import MoELayer, RouterInput, edited_shares
from sb3_moe.layers.routing import Routing, softmax_over_experts
from sb3_moe.layers.sparse_moe import best, check_top_k

#: Which old experts an expert is made of, and which of their gates it takes over: shares of both.
Heir = tuple[Mapping[int, float], Mapping[int, float]]
PREDICTS = ("transition", "reward", "both")
# Adam's constants, as in torch.
BETA_1 = 0.9
BETA_2 = 0.999
EPS = 1e-8
# A model learns nothing from a batch of which its share is below this part of an even share, 1/E.
IDLE_BELOW = 0.01
# The least normal number above 0.
TINY = th.finfo(th.float32).tiny
# The buffers with a row for each model.
BY_MODEL = ("acting_EP", "learning_EP", "mean_EP", "square_EP", "steps_E")


class Belief(nn.Module):
    """Say which of several models of an environment explains the last steps of an episode.

    A row of a history is [observation D | the action that led to it A | the reward that came with
    it | 1], and a row from before the episode's start is zeros. From a row and the next action,
    each model predicts the change of the observation, the reward, or both. Its errors are Gaussian,
    with variances that all models share and learn together. The belief is the posterior over
    models.

    Models learn in :meth:`learn`, with their own Adam. The belief comes from a copy of them that
    :meth:`between_updates` brings up to date. All tensors are buffers: the policy's optimizers
    don't move them, gradient clipping doesn't count them, and files hold them.

    :param obs_dim: D
    :param action_dim: A
    :param num_models: E
    :param hidden: widths of each model's hidden layers; none: the models are linear
    :param predicts: ``"transition"``, ``"reward"`` or ``"both"``
    :param prior_floor: share of the prior that is spread evenly, in (0, 1]; the rest is learned
    :param min_variance: least variance of each predicted number, greater than 0
    :param learning_rate: learning rate of the models
    :param max_grad_norm: norm to which the gradient of all models is clipped
    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value is out of range
    """

    acting_EP: Tensor
    learning_EP: Tensor
    mean_EP: Tensor
    square_EP: Tensor
    steps_E: Tensor

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        num_models: int,
        *,
        hidden: Sequence[int] = (),
        predicts: str = "transition",
        prior_floor: float = 0.1,
        min_variance: float = 1e-4,
        learning_rate: float = 3e-3,
        max_grad_norm: float = 1.0,
    ) -> None:
        super().__init__()
        whole("num_models", num_models)
        widths("hidden", hidden)
        one_of("predicts", predicts, PREDICTS)
        positive("prior_floor", prior_floor, at_most=1.0)
        positive("min_variance", min_variance)
        positive("learning_rate", learning_rate)
        positive("max_grad_norm", max_grad_norm)
        self.obs_dim = obs_dim
        self.action_dim = action_dim
        self.predicts = predicts
        self.prior_floor = prior_floor
        self.min_variance = min_variance
        self.learning_rate = learning_rate
        self.max_grad_norm = max_grad_norm
        # Which of [the observation's change | the reward] is predicted.
        first = obs_dim * (predicts == "reward")
        end = obs_dim + (predicts != "transition")
        self.outputs = slice(first, end)
        dims = [obs_dim + action_dim, *hidden, end - first]
        # The last column of each weight is the bias.
        self.shapes = [(o, i + 1) for i, o in pairwise(dims)]
        # Where a model's row holds log-variances. Those in use are the mean over all models.
        self._variances = slice(-1 - dims[-1], -1)
        models_EP = th.stack([self._drawn() for _ in range(num_models)])
        for name in ("acting_EP", "learning_EP"):
            self.register_buffer(name, models_EP.clone())
        for name in ("mean_EP", "square_EP"):
            self.register_buffer(name, th.zeros_like(models_EP))
        self.register_buffer("steps_E", th.zeros(num_models))

    @property
    def num_models(self) -> int:
        """E."""
        return len(self.acting_EP)

    def _drawn(self) -> Tensor:
        """Return a new model: small weights, log-variances of -2 and an even prior."""
        *hidden, last = self.shapes
        drawn = [th.randn(shape) / math.sqrt(shape[1]) for shape in hidden]
        drawn.append(0.05 * th.randn(last))
        drawn += [th.full((last[0],), -2.0), th.zeros(1)]
        return th.cat([each.flatten() for each in drawn])

    def forward(self, history_BKW: Tensor) -> Tensor:
        """Return the posterior over models, (B, E); with no transition yet it is the prior."""
        with th.no_grad():
            log_ETB, _ = self.log_likelihood(history_BKW, self.acting_EP)
            joint_EB = log_ETB.sum(1) + self.log_prior(self.acting_EP)[:, None]
            return joint_EB.softmax(0).t()

    def log_likelihood(self, history_BKW: Tensor, models_EP: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-likelihood of each transition under each model, up to a constant.

        :param history_BKW: rows of histories
        :param models_EP: the models
        :return: the log-likelihoods, (E, T, B), 0 where there was no transition; and a mask,
            (T, B), 1 where there was one
        """
        sizes = [self.obs_dim, self.action_dim, 1, 1]
        # The batch last, since it is the long axis: sums over a short last axis are slow.
        x_DKB, action_AKB, reward_1KB, real_1KB = history_BKW.permute(2, 1, 0).split(sizes)
        before = th.cat([x_DKB[:, :-1], action_AKB[:, 1:]])
        y = before.flatten(1)
        *weights, log_variance_O = self._parts(models_EP)
        for i, weight_EOI in enumerate(weights):
            x = y if i == 0 else y.tanh()
            y = weight_EOI[..., :-1] @ x + weight_EOI[..., -1:]
        change_DTB = x_DKB[:, 1:] - x_DKB[:, :-1]
        happened = th.cat([change_DTB, reward_1KB[:, 1:]])[self.outputs]
        variance_O = log_variance_O.exp() + self.min_variance
        errors_EON = (y - happened.flatten(1)).square()
        log_EN = -0.5 * th.tensordot(variance_O.reciprocal(), errors_EON, ([0], [1]))
        real_TB = real_1KB[0, 1:] * real_1KB[0, :-1]
        log_ETB = log_EN.view(-1, *real_TB.shape) - 0.5 * variance_O.log().sum()
        return log_ETB * real_TB, real_TB

    @th.no_grad()
    def explained(self, history_BKW: Tensor) -> Tensor:
        """Return each model's mean log-likelihood over the transitions of a history, (B, E).

        It is exact up to a constant that all models share, and NaN if there is no transition yet.

        :param history_BKW: rows of histories
        """
        log_ETB, real_TB = self.log_likelihood(history_BKW, self.acting_EP)
        return (log_ETB.sum(1) / real_TB.sum(0)).t()

    def _parts(self, models_EP: Tensor) -> list[Tensor]:
        """Return the models' weights by layer, (E, O, I + 1), and common log-variances, (O,)."""
        sizes = [math.prod(shape) for shape in self.shapes]
        num_outputs, _ = self.shapes[-1]
        *weights, log_variance_EO, _ = models_EP.split([*sizes, num_outputs, 1], -1)
        shaped = [w.unflatten(-1, shape) for w, shape in zip(weights, self.shapes, strict=True)]
        return [*shaped, log_variance_EO.mean(0)]

    def log_prior(self, models_EP: Tensor) -> Tensor:
        """Return the logarithm of the prior over models, (E,)."""
        scores_E = models_EP[:, -1]
        even = self.prior_floor / len(scores_E)
        return ((1.0 - self.prior_floor) * scores_E.softmax(0) + even).log()

    def learn(self, history_BKW: Tensor, only: int | None = None) -> None:
        """Fit the models to histories by one step, each weighed by its posterior.

        A model with next to no share in a batch stays as it is, so that it doesn't forget its task
        while other tasks are played.

        :param history_BKW: rows of histories
        :param only: number of the one model that learns, as if it explained all; None: all learn
        """
        with th.enable_grad():
            models_EP = self.learning_EP.detach().requires_grad_()
            log_ETB, real_TB = self.log_likelihood(history_BKW.detach(), models_EP)
            joint_EB = log_ETB.sum(1) + self.log_prior(models_EP)[:, None]
            found_B = joint_EB.logsumexp(0) if only is None else log_ETB[only].sum(0)
            loss = -found_B.sum() / real_TB.sum().clamp_min(1.0)
            (grad_EP,) = th.autograd.grad(loss, models_EP)
        seen_B = real_TB.amax(0)
        posterior_EB = joint_EB.detach().softmax(0)
        share_E = (posterior_EB * seen_B).sum(1) / seen_B.sum().clamp_min(1.0)
        active_E = share_E * self.num_models >= IDLE_BELOW
        if only is not None:
            active_E = th.arange(self.num_models, device=active_E.device) == only
        self._step(grad_EP, active_E)

    def fit(self, k: int, history_BKW: Tensor, steps: int) -> None:
        """Draw one model anew and fit it to histories; the belief uses it after the next update.

        :param k: number of the model
        :param history_BKW: rows of histories
        :param steps: number of Adam's steps
        """
        own = self._variances
        before = self.learning_EP[:, own].mean(0)
        for average in (self.mean_EP, self.square_EP, self.steps_E):
            average[k] = 0.0
        self.learning_EP[k, :-1] = self._drawn()[:-1].to(self.learning_EP)
        self.learning_EP[k, own] = before
        scores_E = self.learning_EP[:, -1]
        self.learning_EP[k, -1] = scores_E.logsumexp(0) - math.log(self.num_models)
        for _ in range(steps):
            self.learn(history_BKW, only=k)
        # The common log-variances stay as they were, and so do the other models' likelihoods.
        self.learning_EP[k, own] = before

    @th.no_grad()
    def _step(self, grad_EP: Tensor, active_E: Tensor) -> None:
        """Take a step of Adam with the active models only."""
        grad_EP = grad_EP * (self.max_grad_norm / (grad_EP.norm() + 1e-6)).clamp(max=1.0)
        steps_E = self.steps_E + 1.0
        mean_EP = BETA_1 * self.mean_EP + (1.0 - BETA_1) * grad_EP
        square_EP = BETA_2 * self.square_EP + (1.0 - BETA_2) * grad_EP.square()
        size_E1 = ((1.0 - BETA_2**steps_E).sqrt() / (1.0 - BETA_1**steps_E))[:, None]
        move_EP = self.learning_rate * size_E1 * mean_EP / (square_EP.sqrt() + EPS)
        self.steps_E.copy_(th.where(active_E, steps_E, self.steps_E))
        for own_EP, new_EP in (
            (self.mean_EP, mean_EP),
            (self.square_EP, square_EP),
            (self.learning_EP, self.learning_EP - move_EP),
        ):
            own_EP.copy_(th.where(active_E[:, None], new_EP, own_EP))

    def between_updates(self) -> None:
        """Let the belief come from the models as they are now."""
        self.acting_EP.copy_(self.learning_EP)

    @th.no_grad()
    def remake(self, heirs: Sequence[Heir], temperature: float = 1.0) -> None:
        """Replace the models by new ones that are made from them, as experts join or leave.

        :param heirs: for each new model, the weights with which old models are summed to make it
            (with none, it starts anew), and which share of which old model's gates it takes over
        :param temperature: temperature of the gates
        """
        drawn = [self._drawn().to(self.acting_EP) for _ in heirs]
        for name in BY_MODEL:
            old = getattr(self, name)
            is_model = name in ("acting_EP", "learning_EP")
            rows = []
            for (own, taken), fresh in zip(heirs, drawn, strict=True):
                parts = [weight * old[k] for k, weight in own.items()]
                row = sum(parts) if parts else fresh if is_model else th.zeros_like(old[0])
                if is_model:
                    logs = [old[k, -1] / temperature + math.log(s) for k, s in taken.items()]
                    mean = old[:, -1].logsumexp(0) - math.log(len(old))
                    row[-1] = temperature * th.stack(logs).logsumexp(0) if logs else mean
                    row[self._variances] = old[:, self._variances].mean(0)
                rows.append(row)
            setattr(self, name, th.stack(rows))


class PredictMoE(MoELayer):
    """Weigh each expert by how likely its model is, given the last steps of the episode.

    The router's input is a belief, whose models learn in :class:`Belief`, not here.

    :param experts: one for each model
    :param router_input: not used
    :param top_k: how many experts serve a token, with gates that sum to 1; None: all
    :param temperature: above 1 for gates that are more alike, below 1 for sharper ones
    :raises TypeError: if a value has the wrong type
    :raises ValueError: if a value is out of range
    """

    name = "predict"
    sees = "belief"
    leaves_out = True

    def __init__(
        self,
        experts: Experts,
        router_input: RouterInput,
        *,
        top_k: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(experts)
        check_top_k(top_k or 1, self.num_experts)
        positive("temperature", temperature)
        self.top_k = top_k
        self.temperature = temperature

    def route(self, x: Tensor, router_x: Tensor) -> tuple[Tensor, Routing]:
        """Compute the output; the routing's scores are logarithms of the belief.

        :param x: what the experts see
        :param router_x: the belief, with an entry for each expert
        """
        logits = router_x.clamp_min(TINY).log()
        gates = router_x
        chosen = None
        # A belief can be exactly 1. If that expert is switched off, the gates of the others must
        # not all be 0: after this softmax, none is.
        if self.temperature != 1.0 or self.edit_gates is not None:
            gates = softmax_over_experts(logits / self.temperature)
        gates = edited_shares(self, gates)
        if self.top_k is not None:
            chosen = best(gates, self.top_k)
            gates = gates * th.zeros_like(gates).scatter(-1, chosen, 1.0)
            gates = gates / gates.sum(-1, keepdim=True)
        return self.combine(x, gates, logits=logits, experts=chosen, edited=True)

    def share_out(self, heirs: Any, old: MoELayer) -> None:
        """Do nothing: the belief follows experts that join or leave by itself."""


def positive(name: str, value: object, at_most: float = math.inf) -> None:
    """Raise unless a value is a number greater than 0 and at most ``at_most``."""
    if not 0.0 < number(name, value) <= at_most:
        raise ValueError(f"`{name}` must be in (0, {at_most}], got {value}")
