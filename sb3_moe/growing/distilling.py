"""A dense model that is fitted to what one with experts does.

Shapes: B observations, A action dimensions.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_moe.growing.layer_maps import LayerMap, columns
from sb3_moe.growing.models import WHY_NOT, as_sb3s, build_dense, check_defaults, raw_outputs
from sb3_moe.layers.checks import whole
from sb3_moe.policies.networks import networks_of
from sb3_moe.policies.of_model import policy_of
from sb3_moe.saving.generators import undone_on_failure


class Distilled(NamedTuple):
    """A dense model that was fitted to one with experts.

    :param model: SB3's own
    :param remains: how far its outputs are from the other's on the observations, by tower and head
        (``"pi.0"``): root mean square of the difference, as a share of that of the outputs around
        their mean
    """

    model: Any
    remains: dict[str, float]


def distill(
    model: BaseAlgorithm, obs: Any, *, steps: int = 1000, learning_rate: float = 1e-3
) -> Distilled:
    """Fit SB3's own dense model to what one with experts does on observations.

    Its layers are as wide as those of ``net_arch``. Nothing is played and no reward is seen: it
    learns every network's raw outputs, by Adam on all observations at once. How far actions are
    spread is copied, and LSTMs are, unless an extractor before them learns too.

    :param model: with one of our policies
    :param obs: a batch of observations, as environments give them
    :param steps: of Adam
    :param learning_rate: of Adam
    :raises TypeError: if the policy is not ours
    :raises ValueError: if images are encoded, or there are no steps
    """
    whole("steps", steps)
    old: Any = policy_of(model)
    with undone_on_failure():
        for options in old.moe.values():
            check_defaults(options, ("ent_coef_per_task",), WHY_NOT)
        new = build_dense(model, old, copy.deepcopy(old.net_arch))
        kept = _take_over(new.policy, old)
        ours, theirs = (policy.obs_to_tensor(obs)[0] for policy in (new.policy, old))
        remains = _fit(new.policy, old, ours, theirs, kept, steps, learning_rate)
        for online, target in networks_of(new.policy).targets().items():
            target.load_state_dict(online.state_dict())
        return Distilled(as_sb3s(new, model), remains)


def _take_over(new: Any, old: Any) -> set[th.Tensor]:
    """Copy what outputs for single observations don't show, and return it.

    That is how far actions are spread, and what an LSTM makes of the step before, if it reads what
    it did: no extractor's features that are to be learned anew.
    """
    ours, theirs = networks_of(new), networks_of(old)
    map_ = LayerMap(new, old)
    map_.loose(ours, theirs)
    kept: set[th.Tensor] = {parameter for held in ours.loose().values() for parameter in held}
    for mine, other in zip(ours.networks(), theirs.networks(), strict=True):
        learned = next(mine.extractor.parameters(), None) is not None
        if mine.memory is not None and not learned:
            map_.memory(mine.memory, other.memory, columns(new, mine, old, other, None))
            kept |= set(mine.memory.parameters())
    map_.write_weights()
    return kept


def _fit(
    new: Any,
    old: Any,
    obs: Any,
    old_obs: Any,
    kept: Collection[th.Tensor],
    steps: int,
    learning_rate: float,
) -> dict[str, float]:
    actions = _own_actions(old, old_obs)
    with th.no_grad():
        wanted = raw_outputs(old, old_obs, actions)
    spread = {name: (y - y.mean(0)).square().mean() + 1e-12 for name, y in wanted.items()}
    fitted = [parameter for parameter in new.parameters() if parameter not in kept]
    optimizer = th.optim.Adam(fitted, lr=learning_rate)
    for _ in range(steps):
        found = raw_outputs(new, obs, actions)
        losses = [(found[n] - y).square().mean() / spread[n] for n, y in wanted.items()]
        optimizer.zero_grad()
        th.stack(losses).sum().backward()
        optimizer.step()
    new.zero_grad()
    with th.no_grad():
        found = raw_outputs(new, obs, actions)
    return {
        name: ((found[name] - y).square().mean() / spread[name]).sqrt().item()
        for name, y in wanted.items()
    }


@th.no_grad()
def _own_actions(policy: Any, obs: Any) -> th.Tensor | None:
    """Return the actions that critics of actions are asked about."""
    # RecurrentPPO's `critic` stands before a value network, and knows no actions.
    if networks_of(policy).critic_optimizer() is None:
        return None
    actions_BA: th.Tensor = policy._predict(obs, deterministic=True)
    return actions_BA
