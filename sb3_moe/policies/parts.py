"""SB3's actors, critics and Q networks with experts: parts of a policy with their own ``load``."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BaseModel, ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from sb3_moe.layers.temperatures import TaskTemperatures
from sb3_moe.policies.architect import Architect
from sb3_moe.policies.moe_network import Columns
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import DEFAULTS, MoEOptions
from sb3_moe.policies.own_actions import OwnSquashedGaussian, TaskActionDims
from sb3_moe.policies.plain_distributions import plain
from sb3_moe.policies.task_gradients import TaskGradients
from sb3_moe.vec_env.task_ids import strongest


class MoEPart(BaseModel):
    """A mixin that stands before one of SB3's network classes and puts experts into its network.

    ``save`` keeps every argument, so that ``type(part).load`` builds the same part.

    :param kwargs: arguments of SB3's class, and this package's options for the network
        (:class:`sb3_moe.policies.options.MoEOptions`)
    """

    judges_actions = False
    #: The attribute in which SB3 keeps hidden layers and head, if they are one module.
    layers: ClassVar[str]
    features_extractor: BaseFeaturesExtractor
    task_dims: TaskActionDims | None

    def __init__(self, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in DEFAULTS if name in kwargs}
        super().__init__(**kwargs)
        # Without the extractor: `_get_constructor_parameters` takes `self.features_extractor`, the
        # one that SB3 trains and moves to other devices.
        self.given = {k: v for k, v in kwargs.items() if k != "features_extractor"} | options
        action_dim = get_action_dim(self.action_space) if self.judges_actions else 0
        extractor = kwargs["features_extractor"]
        moe = MoEOptions(**options)
        dims = moe.action_dims
        self.task_dims = None if dims is None else TaskActionDims(dims, self, extractor)
        self.task_gradients = TaskGradients(moe.task_gradients, self.observation_space, extractor)
        self.put_experts(Architect(moe, MoEPolicy.layout(extractor, action_dim)))

    def put_experts(self, architect: Architect) -> None:
        """Replace layers of the network that SB3 built: here of the one module in ``layers``."""
        setattr(self, self.layers, architect.network(getattr(self, self.layers)))

    def forward(self, obs: PyTorchObs, *args: Any) -> Any:
        """Return what SB3's network returns; ``task_gradients`` may change its backward pass."""
        return self.task_gradients(self, obs, [super().forward(obs, *args)])[0]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """Return what ``load`` needs: SB3's actors return it all, its critics hardly anything."""
        own = {"features_extractor": self.features_extractor}
        return super()._get_constructor_parameters() | self.given | own


def make_part(
    policy: MoEPolicy,
    network: str,
    part_class: type[MoEPart],
    net_kwargs: dict[str, Any],
    features_extractor: BaseFeaturesExtractor | None = None,
) -> Any:
    """Build the part of a policy that holds a network, or SB3's own part if that is enough.

    :param policy: whose part it is
    :param network: ``"pi"`` or ``"qf"``
    :param part_class: the class with experts, whose last base is SB3's class
    :param net_kwargs: arguments of SB3's network
    :param features_extractor: None: a new one
    """
    kwargs = policy._update_features_extractor(net_kwargs, features_extractor)
    dense = policy.uses_sb3_network(network, policy.layout(kwargs["features_extractor"]))
    options = policy.moe[network]
    if dense and options.action_dims is None and options.task_gradients is None:
        *_, dense_class = part_class.__bases__
        return dense_class(**kwargs).to(policy.device)
    return part_class(**kwargs, **vars(options)).to(policy.device)


class GaussianActor(MoEPart):
    """An actor with hidden layers and two heads: SAC's, and sb3-contrib's copies of it."""

    temperatures: TaskTemperatures | None
    get_action_dist_params: Any

    def put_experts(self, architect: Architect) -> None:
        """Replace hidden layers and heads."""
        actor: Any = self
        actor.temperatures = None
        if architect.options.ent_coef_per_task:
            every = [get_action_dim(actor.action_space)] * architect.given_layout.num_tasks
            dims = architect.options.action_dims or every
            actor.temperatures = TaskTemperatures([-float(each) for each in dims])
        actor.action_dist = plain(actor.action_dist)
        if architect.place.whole:
            # Each expert gives mean and log standard deviation together.
            action_dim = actor.mu.out_features
            both = nn.Linear(actor.mu.in_features, 2 * action_dim)
            actor.latent_pi = architect.network([*actor.latent_pi, both])
            actor.mu = Columns(0, action_dim)
            actor.log_std = Columns(action_dim, 2 * action_dim)
            return
        actor.latent_pi, width = architect.hidden_network(actor.latent_pi)
        if actor.use_sde:
            actor.mu, actor.log_std = actor.action_dist.proba_distribution_net(
                latent_dim=width, latent_sde_dim=width, log_std_init=actor.log_std_init
            )
        for name in ("mu",) if actor.use_sde else ("mu", "log_std"):
            head = getattr(actor, name)
            if head.in_features != width:
                head = nn.Linear(width, head.out_features)
            setattr(actor, name, architect.head(head))
            architect.match(actor.latent_pi, getattr(actor, name))
        if actor.use_sde and actor.clip_mean > 0.0:
            # As in SB3, against means too large for gSDE.
            actor.mu = nn.Sequential(actor.mu, nn.Hardtanh(-actor.clip_mean, actor.clip_mean))

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Return actions, with 0 in the dimensions that their task lacks."""
        if self.task_dims is None:
            return super().forward(obs, deterministic)
        mean_actions, log_std, _ = self.get_action_dist_params(obs)
        return self.own_distribution(obs).actions_from_params(mean_actions, log_std, deterministic)

    def action_log_prob(self, obs: PyTorchObs) -> tuple[Tensor, Tensor]:
        """Draw actions, and return them with their log-probabilities, (B,).

        A log-probability is that of the task's own dimensions. With ``ent_coef_per_task`` it is
        multiplied by the task's temperature.

        :param obs: observations
        """
        if self.task_dims is None:
            actions_BA, log_prob_B = super().action_log_prob(obs)  # type: ignore[misc]
        else:
            mean_actions, log_std, _ = self.get_action_dist_params(obs)
            distribution = self.own_distribution(obs)
            actions_BA, log_prob_B = distribution.log_prob_from_params(mean_actions, log_std)
        actions_BA, log_prob_B = self.task_gradients(self, obs, (actions_BA, log_prob_B))
        if self.temperatures is None:
            return actions_BA, log_prob_B
        with th.no_grad():
            features_BF = self.extract_features(obs, self.features_extractor)
        tasks_B = strongest(features_BF[:, -len(self.temperatures.log_K) :])
        return actions_BA, self.temperatures(log_prob_B, tasks_B)

    def own_distribution(self, obs: PyTorchObs) -> OwnSquashedGaussian:
        """Return the distribution over each task's own dimensions; only with ``action_dims``.

        :param obs: observations
        """
        assert self.task_dims is not None
        distribution = OwnSquashedGaussian(get_action_dim(self.action_space))
        return distribution.of(self.task_dims(obs))


class MoECritic(MoEPart):
    """A critic that hands features and actions to its networks separately.

    SB3's critics concatenate them first, but a network has to know whether the actions carry a
    gradient.
    """

    judges_actions = True
    q_networks: list[Any]
    share_features_extractor: bool

    def put_experts(self, architect: Architect) -> None:
        """Replace every Q network that SB3 built."""
        for i, dense in enumerate(self.q_networks):
            self.q_networks[i] = architect.network(dense)
            setattr(self, f"qf{i}", self.q_networks[i])

    def networks_forward(
        self, obs: PyTorchObs, actions: Tensor, *, grad: bool, only_first: bool = False
    ) -> tuple[Tensor, ...]:
        """Return each network's output.

        :param obs: observations
        :param actions: actions, scaled to [-1, 1]
        :param grad: whether the features extractor learns from this pass
        :param only_first: run the first network alone
        """
        with th.set_grad_enabled(grad and th.is_grad_enabled()):
            features = self.extract_features(obs, self.features_extractor)
        if self.task_dims is not None:
            actions = self.task_dims.keep(actions, obs)
        networks = self.q_networks[:1] if only_first else self.q_networks
        values = [network(features, actions) for network in networks]
        # If the actions carry a gradient, the loss is the actor's: critics don't learn from it.
        return tuple(values if actions.requires_grad else self.task_gradients(self, obs, values))

    def forward(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, ...]:
        """Return the Q values by every network, (B, 1) each."""
        # As in SB3: a shared features extractor learns from the actor's loss only.
        return self.networks_forward(obs, actions, grad=not self.share_features_extractor)


class MoEContinuousCritic(MoECritic, ContinuousCritic):
    """SB3's critic of SAC, TD3 and DDPG, with experts."""

    def q1_forward(self, obs: PyTorchObs, actions: Tensor) -> Tensor:
        """Return the Q values by the first network, as TD3's actor loss needs them."""
        return self.networks_forward(obs, actions, grad=False, only_first=True)[0]


class MoEActorWithCritics(MoEPolicy):
    """Give the actor, and each critic, experts."""

    network_names = ("pi", "qf")
    actor_class: ClassVar[type[MoEPart]]
    critic_class: ClassVar[type[MoEPart]] = MoEContinuousCritic
    actor_kwargs: dict[str, Any]
    critic_kwargs: dict[str, Any]

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """Build the actor, with experts if its options ask for them."""
        return make_part(self, "pi", self.actor_class, self.actor_kwargs, features_extractor)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """Build the critics, with experts if their options ask for them."""
        return make_part(self, "qf", self.critic_class, self.critic_kwargs, features_extractor)
