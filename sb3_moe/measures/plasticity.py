"""Whether a network can still learn: dormant neurons, ranks, and gradients.

Dormant neurons are defined as in Sokar et al. 2023 (arXiv 2302.12902), for dense and stacked
layers. A unit's activity is its mean absolute activation over a batch, and over positions; GraMa
(arXiv 2505.24061) takes the gradients of neurons instead.

Shapes: N tasks, E experts (1 for a dense layer), H units, B samples, T rows, F features.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sb3_moe.layers.checks import not_negative
from sb3_moe.layers.evaluating import evaluating, having
from sb3_moe.measures.hidden import (
    Activations,
    hidden_layers,
    incoming,
    joined,
    online_parameters,
    policy_activations,
    weight_of,
)
from sb3_moe.policies.networks import networks_of
from sb3_moe.vec_env.observations import Obs, concatenate, select

#: The thresholds at which neurons count as dormant; figures show the first.
TAUS = (0.025, 0.0, 0.1)


def dormant_scores(activity_EH: Tensor) -> Tensor:
    """Return each unit's activity relative to the mean of the whole layer (eq. 1).

    All units of all experts count as one layer. All scores of a silent layer are 0. If any activity
    is not finite, as in a network that diverged, all are NaN.

    :param activity_EH: mean absolute activations, (E, H) or (H,)
    """
    mean = activity_EH.mean()
    scores_EH = (activity_EH / mean).masked_fill(mean == 0, 0.0)
    return scores_EH.masked_fill(~mean.isfinite(), float("nan"))


def dormant_mask(activity_EH: Tensor, tau: float) -> Tensor:
    """Return which units are dormant at a threshold; none of them if the scores are NaN.

    :param activity_EH: mean absolute activations
    :param tau: units whose score is at most this are dormant
    :raises ValueError: if ``tau`` is negative
    """
    not_negative("tau", tau)
    return dormant_scores(activity_EH) <= tau


def dormant_fraction(activity_EH: Tensor, tau: float = 0.0) -> float:
    """Return the share of dormant units, pooled over the layer: the primary measure.

    :param activity_EH: mean absolute activations
    :param tau: units whose score is at most this are dormant
    :return: between 0 and 1; NaN if any activity is not finite
    :raises ValueError: if ``tau`` is negative
    """
    not_negative("tau", tau)
    scores_EH = dormant_scores(activity_EH)
    asleep_EH = (scores_EH <= tau).double().masked_fill(scores_EH.isnan(), float("nan"))
    return float(asleep_EH.mean())


def dormant_fraction_per_expert(activity_EH: Tensor, tau: float = 0.0) -> Tensor:
    """Return each expert's share of dormant units, relative to the mean activity of that expert.

    It does not show that an expert is quiet as a whole; the pooled measure does.

    :param activity_EH: mean absolute activations
    :param tau: units whose score is at most this are dormant
    :raises ValueError: if ``tau`` is negative
    :return: (E,), NaN for an expert of which any activity is not finite
    """
    return th.tensor([dormant_fraction(activity_H, tau) for activity_H in activity_EH])


def effective_rank(features_TF: Tensor) -> float:
    """Return exp(entropy) of the singular values, scaled to sum to 1 (Roy and Vetterli 2007).

    :param features_TF: one row per sample
    :return: between 1 and min(T, F); 0 if all features are zero, NaN if one is not finite
    """
    values = _singular_values(features_TF)
    if values.sum() == 0:
        return 0.0
    shares = values / values.sum()
    return float(th.special.entr(shares).sum().exp())


def stable_rank(features_TF: Tensor) -> float:
    """Return the squared Frobenius norm over the squared spectral norm.

    :param features_TF: one row per sample
    :return: between 1 and min(T, F); 0 if all features are zero, NaN if one is not finite
    """
    squares = _singular_values(features_TF).square()
    return 0.0 if squares.max() == 0 else float(squares.sum() / squares.max())


def _singular_values(features_TF: Tensor) -> Tensor:
    """Return the singular values as doubles; NaN if an entry isn't finite: LAPACK would fail."""
    matrix_TF = features_TF.detach().double()
    values = th.linalg.svdvals(matrix_TF.nan_to_num(0.0, 0.0, 0.0))
    return values.masked_fill(~matrix_TF.isfinite().all(), float("nan"))


def ntk_rank(outputs_T: Tensor, parameters: Iterable[Tensor]) -> float:
    """Return the effective rank of the empirical neural tangent kernel on a batch.

    It falls when samples can no longer be told apart by a gradient step (Lyle et al. 2023,
    arXiv 2303.01486).

    :param outputs_T: one scalar per sample, with a graph
    :param parameters: what to differentiate by, at least one with influence
    :return: as of :func:`effective_rank`
    """
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    rows = []
    for output in outputs_T:
        # Those without influence have no gradient, and are the same for every sample.
        gradients = th.autograd.grad(output, wanted, retain_graph=True, allow_unused=True)
        rows.append(th.cat([each.flatten() for each in gradients if each is not None]))
    jacobian = th.stack(rows).double()
    return effective_rank(jacobian @ jacobian.T)


Measures = dict[str, Any]


def measure_layers(
    policy: BasePolicy, batches: Sequence[Obs], taus: Sequence[float] = TAUS
) -> Measures:
    """Measure dormancy and ranks of every hidden layer.

    Each name ends in ``/<layer>``:

    - ``dormant``, the primary measure: the dormant fraction at the first tau, pooled over the layer
      and all tasks; for an expert's units only the rows sent to that expert count
    - ``dormant@<tau>``: the same at each other tau
    - ``dormant_per_task`` (N,): the same as ``dormant``, on each task's batch alone
    - ``dormant_per_expert``, for layers of several experts: the mean of the experts' own fractions
    - ``effective_rank`` and ``stable_rank``: of the layer's features over all tasks

    :param policy: of any algorithm
    :param batches: observations of each task
    :param taus: thresholds; the first is the primary one
    :raises ValueError: if a threshold is negative
    """
    by_task = [policy_activations(policy, batch) for batch in batches]
    measures = {}
    for layer in by_task[0]:
        seen = [activations[layer] for activations in by_task if layer in activations]
        for name, value in _layer(seen, taus).items():
            measures[f"{name}/{layer}"] = value
    return measures


def _layer(seen: Sequence[Activations], taus: Sequence[float]) -> Measures:
    pooled = joined(seen)
    tau = taus[0]
    pooled_EH = pooled.activity_EH
    by_task = [each.activity_EH for each in seen]
    measures: Measures = {"dormant": dormant_fraction(pooled_EH, tau)}
    measures |= {f"dormant@{other}": dormant_fraction(pooled_EH, other) for other in taus[1:]}
    measures["dormant_per_task"] = np.array([dormant_fraction(a_EH, tau) for a_EH in by_task])
    if len(pooled_EH) > 1:
        per_expert_E = dormant_fraction_per_expert(pooled_EH, tau)
        measures["dormant_per_expert"] = float(per_expert_E.mean())
    measures["effective_rank"] = effective_rank(pooled.features_TF)
    measures["stable_rank"] = stable_rank(pooled.features_TF)
    return measures


def measure_ntk(policy: BasePolicy, batches: Sequence[Obs], size: int = 24) -> Measures:
    """Measure the rank of the empirical neural tangent kernel of every network.

    :param policy: of any algorithm
    :param batches: observations of each task
    :param size: samples altogether, equally many of each task
    """
    share = max(size // len(batches), 1)
    obs = concatenate([select(batch, slice(0, share)) for batch in batches])
    with evaluating(policy), th.enable_grad():
        outputs = networks_of(policy).outputs(policy.obs_to_tensor(obs)[0])
        return {
            f"ntk_rank/{network}": ntk_rank(outputs_T, policy.parameters())
            for network, outputs_T in outputs.items()
        }


Gradients = Mapping[Tensor, Tensor | None]
#: The default: every gradient is read from its parameter's ``.grad``.
NOT_KEPT: Gradients = {}


def gradient_activity(policy: BasePolicy, gradients: Gradients = NOT_KEPT) -> dict[str, Tensor]:
    """Return the mean absolute gradient of the weights into each unit, (E, H), by hidden layer.

    It takes the place of activities in ``dormant_scores``. The gradient is that of the last update,
    as in the authors' code: no backward pass is run for it. Layers next to a normalization and in
    residual blocks have an entry too.

    :param policy: of any algorithm; layers without gradient are left out
    :param gradients: gradients of some parameters, to be used instead of their ``.grad``; see
        :class:`~sb3_moe.measures.plasticity.CriticGradients`
    """
    found = {}
    for name, feeder in ((layer.name, layer.feeder) for layer in hidden_layers(policy)):
        if feeder is None:
            continue
        weight = weight_of(feeder)
        gradient = gradients.get(weight, weight.grad)
        if gradient is not None:
            found[name] = incoming(feeder)(gradient).abs().flatten(2).mean(2)
    return found


def measure_gradients(
    policy: BasePolicy, gradients: Gradients = NOT_KEPT, taus: Sequence[float] = TAUS
) -> dict[str, float]:
    """Measure the share of units of each hidden layer that hardly any gradient reaches.

    ``inactive/<layer>`` is at the first tau, ``inactive@<tau>/<layer>`` at the others; all units of
    all experts count as one layer.

    :param policy: of any algorithm
    :param gradients: as in :func:`gradient_activity`
    :param taus: thresholds; the first is the primary one
    :raises ValueError: if a threshold is negative
    """
    names = ["inactive", *(f"inactive@{tau}" for tau in taus[1:])]
    return {
        f"{name}/{layer}": dormant_fraction(activity_EH, tau)
        for layer, activity_EH in gradient_activity(policy, gradients).items()
        for name, tau in zip(names, taus, strict=True)
    }


def measure_weights(policy: BasePolicy, gradients: Gradients = NOT_KEPT) -> dict[str, float]:
    """Measure the size of the weights of every network, and of their gradients if there are any.

    Gradients are those of the last update, after clipping. Where a critic has an optimizer of its
    own, the actor's loss has added to the ``.grad`` of its weights: give the gradients that
    :class:`~sb3_moe.measures.plasticity.CriticGradients` kept.

    :param policy: of any algorithm
    :param gradients: gradients of some parameters, to be used instead of their ``.grad``
    """
    measures = {}
    for network, parameters in online_parameters(policy).items():
        measures[f"weight_norm/{network}"] = joint_norm(parameters)
        given = [gradients.get(each, each.grad) for each in parameters]
        if found := [each for each in given if each is not None]:
            number = sum(each.numel() for each in parameters)
            zeros = number - sum(int(each.count_nonzero()) for each in found)
            measures[f"gradient_norm/{network}"] = joint_norm(found)
            measures[f"zero_gradients/{network}"] = zeros / number
    return measures


def joint_norm(tensors: Iterable[Tensor]) -> float:
    """Return the L2 norm of all numbers of some tensors together."""
    norms = [th.linalg.vector_norm(each.detach()) for each in tensors]
    return float(th.linalg.vector_norm(th.stack(norms)))


class CriticGradients:
    """Keep the critic's gradient as its optimizer saw it (SAC, TD3, DDPG, TQC, CrossQ).

    After the critic's own step the actor's loss is backpropagated through the critic, and adds to
    the ``.grad`` of its weights; SB3 clears that only before the critic's next step.

    :ivar of_last_step: the gradient of each of the critic's weights, None where there was none
    """

    def __init__(self) -> None:
        self.of_last_step: dict[Tensor, Tensor | None] = {}
        self._handle: RemovableHandle | None = None

    def attach(self, policy: BasePolicy) -> None:
        """Follow a policy's critic from now on.

        :param policy: of any algorithm; where one optimizer has all weights, there is nothing to do
        """
        self.detach()
        optimizer = networks_of(policy).critic_optimizer()
        if optimizer is not None:
            groups = [group["params"] for group in optimizer.param_groups]
            # Until the optimizer steps, no gradient is known.
            self.of_last_step = {parameter: None for group in groups for parameter in group}
            self._handle = optimizer.register_step_post_hook(self._keep)

    def detach(self) -> None:
        """Follow the critic no longer, and forget its gradients."""
        self.of_last_step = {}
        if self._handle is not None:
            self._handle.remove()

    def _keep(self, optimizer: th.optim.Optimizer, *args: Any) -> None:
        # Its own parameters each time: they are others once experts joined or left.
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.of_last_step = {p: None if p.grad is None else p.grad.clone() for p in parameters}


def fisher_information(
    policy: BasePolicy,
    obs: Obs,
    actions: npt.NDArray[np.generic],
    parameters: Mapping[str, nn.Parameter],
    masks: npt.NDArray[np.generic] | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the diagonal of the empirical Fisher information, by the parameters' names.

    It is the mean over rows of the squared gradients of what
    :meth:`sb3_moe.policies.networks.Networks.taken` returns for the action taken: its
    log-probability and critics' values, where there are any (arXiv 1612.00796, eq. 3).

    :param policy: of any algorithm; its mode is left as it was
    :param obs: a batch of observations, as the policy sees them
    :param actions: the B actions taken there, as the algorithm keeps them in its buffer
    :param parameters: what to differentiate by, by name
    :param masks: the B masks of actions under which these were chosen, for MaskablePPO
    """
    networks = networks_of(policy)
    wanted = list(parameters.values())
    sums = {name: th.zeros_like(each) for name, each in parameters.items()}
    taken = th.as_tensor(actions, device=policy.device)
    taken = taken.float() if taken.is_floating_point() else taken
    with evaluating(policy), having(wanted, "requires_grad", True), th.enable_grad():
        # Row by row: a batch's gradient is the sum, and each row's own has to be squared.
        for i in range(len(actions)):
            seen, _ = policy.obs_to_tensor(select(obs, slice(i, i + 1)))
            allowed = {} if masks is None else {"action_masks": masks[i : i + 1]}
            for each in networks.taken(seen, taken[i : i + 1], **allowed):
                grads = th.autograd.grad(
                    each.sum(), wanted, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                for total, grad in zip(sums.values(), grads, strict=True):
                    total += grad.square()
    return {name: (total / len(actions)).cpu().numpy() for name, total in sums.items()}
