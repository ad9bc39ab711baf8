"""Find the networks of a policy: one class for each family of policies, SB3's own included.

Networks are built elsewhere, in ``architect``.

Code that measures, changes or watches a policy's networks gets them from ``networks_of(policy)``
instead of reading the policy's attributes. A user's own family is added by ``register_networks``.

Shapes: B batch, A choices of one kind or dimensions of an action, D components of a continuous
action, Q quantiles.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from inspect import signature
from operator import attrgetter
from string import digits
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, distributions, nn

from sb3_moe.layers.fixed_moe import TaskEmbedding
from sb3_moe.layers.shares import tensors_of

Kind = Literal["probability", "value", "mean"]


class Decision(NamedTuple):
    """What a policy prefers, and its critics' values.

    :param kind: what the preferences are: probabilities, values of actions (Q), or the mean of a
        continuous action
    :param preferences: (B, A) for each choice that makes up an action, or one (B, D) for a
        continuous action
    :param values: the critics' values by network, (B,) each
    """

    kind: Kind
    preferences: tuple[Tensor, ...]
    values: dict[str, Tensor]


def of_distribution(found: Any, values: dict[str, Tensor]) -> Decision:
    """Read one of SB3's or sb3-contrib's action distributions.

    :param found: the distribution
    :param values: the critics' values by network, (B,) each
    """
    inner: Any = getattr(found, "distributions", None) or getattr(found, "distribution", None)
    several = inner if isinstance(inner, list) else [inner]
    if isinstance(several[0], distributions.Categorical):
        return Decision("probability", tuple(each.probs for each in several), values)
    if isinstance(several[0], distributions.Bernoulli):
        yes_BD = several[0].probs
        # Each dimension becomes a choice between no and yes.
        pairs = th.stack([1 - yes_BD, yes_BD], -1).unbind(1)
        return Decision("probability", pairs, values)
    return Decision("mean", (found.mode(),), values)


TARGET = "_target"


def network_of(mixture: str) -> str:
    """Return the network that the name of a mixture or part begins with, such as ``"qf0"``."""
    return mixture.partition(".")[0]


def kind_of(mixture: str) -> str:
    """Return a network's name in options: ``"qf"`` for ``"qf0"``, ``"qf1"`` and their mixtures."""
    return network_of(mixture).rstrip(digits)


def uncompiled(module: Any) -> Any:
    """Return the module that ``torch.compile`` wraps, or the module itself."""
    return getattr(module, "_orig_mod", module)


class Network(NamedTuple):
    """One online network, from features to output.

    :param name: ``"pi"``, ``"vf"``, ``"qf"``, or ``"qf0"`` for the first critic
    :param extractor: its features extractor
    :param hidden: its hidden layers, with the output layer where there are no ``heads``
    :param heads: its output layers, if they are apart from the hidden layers
    :param memory: the module between ``extractor`` and ``hidden`` (an LSTM), if there is one
    """

    name: str
    extractor: nn.Module
    hidden: nn.Module
    heads: tuple[nn.Module, ...] = ()
    memory: nn.Module | None = None

    @property
    def layers(self) -> list[nn.Module]:
        """Hidden layers and heads."""
        return [self.hidden, *self.heads]


class Networks(ABC):
    """The networks of one policy; a subclass knows where its family of policies keeps them.

    A subclass defines ``fits``, ``networks`` and ``decide``, and overrides other methods where its
    family differs.

    :param policy: a policy of SB3, or one with the same parts
    """

    # The attribute paths of constructor arguments that the policy keeps under another name.
    kept_as: ClassVar[Mapping[str, str]] = {}

    def __init__(self, policy: BaseModel) -> None:
        self.policy: Any = policy

    @classmethod
    @abstractmethod
    def fits(cls, policy: BaseModel) -> bool:
        """Say whether a policy belongs to this family, judged by its attributes."""

    @abstractmethod
    def networks(self) -> list[Network]:
        """Return every online network, the actor first."""

    @abstractmethod
    def decide(self, obs: PyTorchObs, **masks: Any) -> Decision:
        """Return the policy's preferences and values at the start of an episode.

        Every network runs once.

        :param obs: a batch of observations on the policy's device
        :param masks: ``action_masks`` where the policy takes them
        """

    def step(
        self, obs: PyTorchObs, memory: Any, starts: Tensor, **masks: Any
    ) -> tuple[Decision, Any]:
        """Return the policy's preferences and values at any step, and its memory after the step.

        :param obs: a batch of observations on the policy's device
        :param memory: the memory that this method returned for the previous step; None at first
        :param starts: 1 where an episode starts, (B,)
        :param masks: as for :meth:`decide`
        """
        return self.decide(obs, **masks), None

    def run(self, obs: PyTorchObs, actions: Tensor | None = None) -> None:
        """Run every network once, at the start of an episode.

        :param obs: a batch of observations on the policy's device
        :param actions: for critics that judge Box actions; None: the actor's most likely ones
        """
        self.decide(obs)

    def outputs(self, obs: PyTorchObs) -> dict[str, Tensor]:
        """Return one differentiable scalar for each network and sample, (B,).

        A critic's is its value; an actor's is the log-probability of its most likely action, or
        the sum of the components of a continuous action.

        :param obs: a batch of observations on the policy's device
        """
        decision = self.decide(obs)
        if decision.kind == "value":
            return decision.values
        if decision.kind == "mean":
            return {"pi": decision.preferences[0].sum(-1), **decision.values}
        logs = [probs_BA.max(-1).values.log() for probs_BA in decision.preferences]
        return {"pi": th.stack(logs).sum(0), **decision.values}

    def taken(self, obs: PyTorchObs, actions: Tensor, **masks: Any) -> list[Tensor]:
        """Return the policy's outputs for actions that were taken: differentiable, (B,) each.

        Each is the actions' log-probability, an output of a deterministic actor, or a critic's
        value of the actions. The squared gradients of a sample, summed over this list, are its
        Fisher information.

        :param obs: a batch of observations on the policy's device
        :param actions: as the algorithm keeps them in its buffer, on that device
        :param masks: ``action_masks``, for MaskablePPO
        :raises TypeError: if the family does not define this method
        """
        raise TypeError(f"{type(self).__name__} must define `taken` for this")

    # Where the networks' modules, parameters and targets are.

    def modules(self) -> dict[str, list[nn.Module]]:
        """Return each online network's modules, from features to output."""
        return {net.name: net.layers for net in self.networks()}

    def extractors(self) -> dict[str, nn.Module]:
        """Return the online features extractors: ``"features"``, and a critic's ``"vf_features"``.

        A critic that shares the actor's has no entry.
        """
        found = dict.fromkeys(net.extractor for net in self.networks())
        return dict(zip(("features", "vf_features"), found, strict=False))

    def memories(self) -> dict[str, nn.Module]:
        """Return the modules between the features extractors and the networks, such as LSTMs."""
        return {}

    def loose(self) -> dict[str, list[nn.Parameter]]:
        """Return, by part, parameters outside of all layers, such as a Gaussian's ``log_std``."""
        return {name: [each] for name, each in self.policy.named_parameters(recurse=False)}

    def parts(self) -> dict[str, list[nn.Module | nn.Parameter]]:
        """Return the online modules and loose parameters by part; no parameter is in two parts."""
        alone = self.extractors() | self.memories()
        parts: dict[str, list[Any]] = {name: [module] for name, module in alone.items()}
        parts |= self.modules()
        for name, parameters in self.loose().items():
            parts.setdefault(name, []).extend(parameters)
        return parts

    def owners(self) -> dict[nn.Module | nn.Parameter, str]:
        """Return the name of the part that each online module and parameter is in.

        A module or parameter outside of :meth:`parts` gets the name of the policy's child that
        holds it.
        """
        held: list[Any] = [(name, each) for name, part in self.parts().items() for each in part]
        held += self.online().items()
        owners: dict[nn.Module | nn.Parameter, str] = {}
        for name, each in held:
            is_alone = isinstance(each, nn.Parameter)
            inside: list[Any] = [each] if is_alone else [*each.modules(), *each.parameters()]
            owners = dict.fromkeys(inside, name) | owners
        return owners

    def online(self) -> dict[str, nn.Module]:
        """Return the policy's own modules by name, without target networks."""
        children = self.policy.named_children()
        return {name: child for name, child in children if not name.endswith(TARGET)}

    def targets(self) -> dict[nn.Module, nn.Module]:
        """Return the target network of each online network that has one."""
        children = dict(self.policy.named_children())
        names = [name for name in children if name + TARGET in children]
        return {children[name]: children[name + TARGET] for name in names}

    def target_of(self, module: nn.Module) -> nn.Module | None:
        """Return the counterpart of an online module in its target network; None without one.

        :param module: an online network, or any module inside one
        """
        pairs: dict[nn.Module, nn.Module] = {}
        for online, target in self.targets().items():
            pairs |= zip(online.modules(), target.modules(), strict=True)
        return pairs.get(module)

    def followers(self) -> dict[Tensor, Tensor]:
        """Return the target network's tensor for each online tensor that has one."""
        pairs: dict[Tensor, Tensor] = {}
        for online, target in self.targets().items():
            pairs |= zip(tensors_of(online), tensors_of(target), strict=True)
        return pairs

    def squashing_module(self) -> nn.Module | None:
        """Return the module that may squash the actor's output and is no hidden layer, if any."""
        return None

    # How the policy learns, and is built.

    def optimizers(self) -> dict[str, th.optim.Optimizer]:
        """Return the optimizer of each network; networks may share one."""
        return dict.fromkeys(self.modules(), self.policy.optimizer)

    def every_optimizer(self) -> list[th.optim.Optimizer]:
        """Return each optimizer once, the actor's first."""
        return list(dict.fromkeys(self.optimizers().values()))

    def critic_optimizer(self) -> th.optim.Optimizer | None:
        """Return the critics' optimizer if the actor's loss adds to their gradients, else None."""
        return None

    def constructor_arguments(self) -> dict[str, Any]:
        """Return what the policy was built with.

        SB3's policies return what ``load`` needs, except for a few arguments (whether features are
        shared, the sizes of an LSTM). These are read from attributes.
        """
        given = self.policy._get_constructor_parameters()
        for name in signature(type(self.policy)).parameters.keys() - given.keys():
            # A user's class may keep an argument in no attribute. Callers check what they build.
            with suppress(AttributeError):
                given[name] = attrgetter(self.kept_as.get(name, name))(self.policy)
        return given


class ActorCriticNetworks(Networks):
    """The networks of PPO, A2C, TRPO and MaskablePPO, which share one optimizer.

    sb3-contrib's policy for MaskablePPO has the same parts and methods, but another base class.
    """

    @classmethod
    def fits(cls, policy: BaseModel) -> bool:
        """Say whether there are an actor and a value network, each with hidden layers."""
        hidden = getattr(policy, "mlp_extractor", None)
        return hasattr(policy, "value_net") and hasattr(hidden, "policy_net")

    def networks(self) -> list[Network]:
        """Return actor and value network."""
        policy = self.policy
        net = self.policy.mlp_extractor
        return [
            Network("pi", policy.pi_features_extractor, net.policy_net, (policy.action_net,)),
            Network("vf", policy.vf_features_extractor, net.value_net, (policy.value_net,)),
        ]

    def decide(self, obs: PyTorchObs, **masks: Any) -> Decision:
        """Return the actor's distribution and the value."""
        found = self._distribution(obs, **masks)
        values_B = self.policy.predict_values(obs, *self._memory(obs)).flatten()
        return of_distribution(found, {"vf": values_B})

    def taken(self, obs: PyTorchObs, actions: Tensor, **masks: Any) -> list[Tensor]:
        """Return the log-probability of the actions, at the start of an episode."""
        if isinstance(self.policy.action_space, spaces.Discrete):
            actions = actions.long().flatten()  # buffers keep discrete actions as a column
        return [self._distribution(obs, **masks).log_prob(actions)]

    def _distribution(self, obs: PyTorchObs, **masks: Any) -> Any:
        return self.policy.get_distribution(obs, *self._memory(obs), **masks)

    def _memory(self, obs: PyTorchObs) -> tuple[Any, ...]:
        """Return the arguments that follow observations at the start of an episode: here none."""
        return ()


class Memories(NamedTuple):
    """The states of both LSTMs, with the field names of sb3-contrib's ``RNNStates``."""

    pi: Any
    vf: Any


class RecurrentNetworks(ActorCriticNetworks):
    """The networks of RecurrentPPO, which stand behind LSTMs."""

    kept_as: ClassVar[Mapping[str, str]] = {
        "lstm_hidden_size": "lstm_output_dim",
        "n_lstm_layers": "lstm_actor.num_layers",
    }

    @classmethod
    def fits(cls, policy: BaseModel) -> bool:
        """Say whether the actor has an LSTM."""
        return super().fits(policy) and hasattr(policy, "lstm_actor")

    def networks(self) -> list[Network]:
        """Return actor and value network, each with the module that feeds it."""
        actor, value = super().networks()
        lstm = self.policy.lstm_actor
        # A critic without its own LSTM has a linear layer, or shares the actor's LSTM.
        of_value = self.policy.lstm_critic or self.policy.critic or lstm
        return [actor._replace(memory=lstm), value._replace(memory=of_value)]

    def memories(self) -> dict[str, nn.Module]:
        """Return the LSTMs, and the linear layer of a critic that has none."""
        names = ("lstm_actor", "lstm_critic", "critic")
        return {name: each for name, each in self.policy.named_children() if name in names}

    def step(
        self, obs: PyTorchObs, memory: Any, starts: Tensor, **masks: Any
    ) -> tuple[Decision, Any]:
        """Return the actor's distribution and the value, and the next states of both LSTMs."""
        fresh, _ = self._memory(obs)
        memory = memory or Memories(fresh, fresh)
        found, _ = self.policy.get_distribution(obs, memory.pi, starts)
        _, values_B, _, after = self.policy.forward(obs, memory, starts, deterministic=True)
        return of_distribution(found, {"vf": values_B.flatten()}), after

    def _distribution(self, obs: PyTorchObs, **masks: Any) -> Any:
        # The LSTM's next state, which comes with the distribution, is not needed.
        return super()._distribution(obs)[0]

    def _memory(self, obs: PyTorchObs) -> tuple[Any, ...]:
        """Return an LSTM's initial state, and ones that tell it that an episode starts."""
        batch = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        layers, _, width = self.policy.lstm_hidden_state_shape
        zeros = th.zeros(layers, batch, width, device=self.policy.device)
        return (zeros, zeros), th.ones(batch, device=self.policy.device)


class ActorWithCriticsNetworks(Networks):
    """The networks of SAC, TQC and CrossQ: an optimizer for the actor and one for all critics."""

    @classmethod
    def fits(cls, policy: BaseModel) -> bool:
        """Say whether there are critics beside an actor."""
        return hasattr(policy, "actor") and hasattr(getattr(policy, "critic", None), "q_networks")

    def networks(self) -> list[Network]:
        """Return the actor and each critic."""
        critic = self.policy.critic
        critics = [
            Network(f"qf{i}", critic.features_extractor, net)
            for i, net in enumerate(critic.q_networks)
        ]
        return [self._actor(), *critics]

    def _actor(self) -> Network:
        actor = self.policy.actor
        # With gSDE, log_std is a parameter and no module.
        heads = tuple(h for h in (actor.mu, actor.log_std) if isinstance(h, nn.Module))
        return Network("pi", actor.features_extractor, actor.latent_pi, heads)

    def loose(self) -> dict[str, list[nn.Parameter]]:
        """Return the policy's own, and the actor's (gSDE's ``log_std``) as part ``"pi"``."""
        own = list(self.policy.actor.parameters(recurse=False))
        return super().loose() | ({"pi": own} if own else {})

    def squashing_module(self) -> nn.Module | None:
        """Return the last module of the actor's mean: TD3's is a tanh, gSDE's may be a clipping."""
        parts = self.policy.actor.mu.modules()
        return [part for part in parts if not isinstance(part, TaskEmbedding)][-1]

    def optimizers(self) -> dict[str, th.optim.Optimizer]:
        """Return the actor's optimizer, and for each critic the one that all critics share."""
        actor, *critics = self.modules()
        of_critics = dict.fromkeys(critics, self.policy.critic.optimizer)
        return {actor: self.policy.actor.optimizer, **of_critics}

    def critic_optimizer(self) -> th.optim.Optimizer | None:
        """Return the critics' optimizer: the actor's loss reaches the critics after its step."""
        return self.policy.critic.optimizer

    def run(self, obs: PyTorchObs, actions: Tensor | None = None) -> None:
        """Run the actor, then the critics on its actions or on those given."""
        own_BA = self.policy._predict(obs, deterministic=True)
        self.policy.critic(obs, own_BA if actions is None else actions)

    def _values(self, obs: PyTorchObs, actions_BA: Tensor) -> dict[str, Tensor]:
        q_values: Any = self.policy.critic(obs, actions_BA.detach())
        # TQC's critic returns the quantiles of all critics in one tensor.
        critics = q_values if isinstance(q_values, tuple) else q_values.unbind(1)
        return {f"qf{i}": values.flatten(1).mean(1) for i, values in enumerate(critics)}

    def decide(self, obs: PyTorchObs, **masks: Any) -> Decision:
        """Return the actor's most likely action, in [-1, 1], and the critics' values of it."""
        actions_BA = self.policy._predict(obs, deterministic=True)
        return Decision("mean", (actions_BA,), self._values(obs, actions_BA))

    def taken(self, obs: PyTorchObs, actions: Tensor, **masks: Any) -> list[Tensor]:
        """Return the log-probability of the actions, in [-1, 1], and each critic's value."""
        return [*self._preference(obs, actions), *self._values(obs, actions).values()]

    def _preference(self, obs: PyTorchObs, actions: Tensor) -> list[Tensor]:
        actor = self.policy.actor
        mean_BA, log_std, noise = actor.get_action_dist_params(obs)
        # If tasks have their own action dimensions, the distribution depends on the observations.
        all_alike = getattr(actor, "task_dims", None) is None
        distribution = actor.action_dist if all_alike else actor.own_distribution(obs)
        found = distribution.proba_distribution(mean_BA, log_std, **noise)
        return [found.log_prob(actions)]


class DeterministicActorNetworks(ActorWithCriticsNetworks):
    """The networks of TD3 and DDPG, whose actor is one network."""

    @classmethod
    def fits(cls, policy: BaseModel) -> bool:
        """Say whether the actor's hidden layers and head are one module."""
        return super().fits(policy) and not hasattr(policy.actor, "latent_pi")

    def _actor(self) -> Network:
        return Network("pi", self.policy.actor.features_extractor, self.policy.actor.mu)

    def _preference(self, obs: PyTorchObs, actions: Tensor) -> list[Tensor]:
        # There is no log-probability. The squared gradients of these outputs are the Fisher
        # information of a Gaussian around them, of standard deviation 1.
        return list(self.policy.actor(obs).unbind(-1))


class QNetworks(Networks):
    """The network of DQN: a single network, ``"qf"``."""

    # The attribute that holds the network in the policy, and the layers in the network.
    name = "q_net"

    @classmethod
    def fits(cls, policy: BaseModel) -> bool:
        """Say whether the policy has a network under this family's ``name``."""
        return hasattr(policy, cls.name)

    def networks(self) -> list[Network]:
        """Return the online network."""
        net = getattr(self.policy, self.name)
        return [Network("qf", net.features_extractor, getattr(net, self.name))]

    def decide(self, obs: PyTorchObs, **masks: Any) -> Decision:
        """Return the value of each action, and the value of the best action."""
        values_BA = self.values(obs)
        return Decision("value", (values_BA,), {"qf": values_BA.max(dim=1).values})

    def taken(self, obs: PyTorchObs, actions: Tensor, **masks: Any) -> list[Tensor]:
        """Return the value of the actions."""
        column = actions.long().reshape(-1, 1)
        return [self.values(obs).gather(1, column).flatten()]

    def values(self, obs: PyTorchObs) -> Tensor:
        """Return the value of each action, (B, A)."""
        return getattr(self.policy, self.name)(obs)


class QuantileNetworks(QNetworks):
    """The network of QR-DQN."""

    name = "quantile_net"

    def values(self, obs: PyTorchObs) -> Tensor:
        """Return the mean of each action's quantiles, (B, A)."""
        return super().values(obs).mean(1)


N = TypeVar("N", bound=type[Networks])

# `networks_of` takes the first that fits.
FAMILIES: list[type[Networks]] = [
    RecurrentNetworks,
    ActorCriticNetworks,
    DeterministicActorNetworks,
    ActorWithCriticsNetworks,
    QNetworks,
    QuantileNetworks,
]


def networks_of(policy: BaseModel) -> Networks:
    """Return the :class:`Networks` of a policy, of the first family that fits.

    >>> from stable_baselines3 import DQN
    >>> networks = networks_of(DQN("MlpPolicy", "CartPole-v1").policy)
    >>> list(networks.modules()), list(networks.optimizers())
    (['qf'], ['qf'])

    :param policy: of any algorithm of SB3 or sb3-contrib, with experts or without
    :raises TypeError: if no family fits
    """
    policy = uncompiled(policy)
    for family in FAMILIES:
        if family.fits(policy):
            return family(policy)
    names = ", ".join(family.__name__ for family in FAMILIES)
    raise TypeError(
        f"`policy` must be of a known family ({names}), got {type(policy).__name__}; "
        "register_networks adds one"
    )


def register_networks(family: N) -> N:
    """Add a family of policies, which is tried before all others; works as a decorator.

    :param family: a subclass of :class:`sb3_moe.policies.networks.Networks`
    """
    FAMILIES.insert(0, family)
    return family
