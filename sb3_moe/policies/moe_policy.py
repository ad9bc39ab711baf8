"""What every MoE policy shares: its options, its features extractor and its networks."""

import copy
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule

from sb3_moe.layers.classes import did_you_mean
from sb3_moe.policies.extractors import TaskExtractor, default_encoder
from sb3_moe.policies.moe_network import Layout
from sb3_moe.policies.optimizers import ExpertAdam, ExpertAdamW
from sb3_moe.policies.options import DEFAULTS, per_network
from sb3_moe.policies.teaches_optimizers import TeachesOptimizers
from sb3_moe.vec_env.task_ids import TASK_KEY, has_task_key

OURS = ("encoder", "num_tasks")
EXPERT_ADAMS = {
    th.optim.Adam: ExpertAdam,
    th.optim.AdamW: ExpertAdamW,
}


class MoEPolicy(TeachesOptimizers):
    """A mixin that stands before one of SB3's policy classes and gives its networks experts.

    Each of SB3's arguments keeps its meaning. Every option from ``placement`` to ``action_dims``
    may also be a dict from network to value, like ``net_arch``: ``dict(pi=..., vf=...)``, or
    ``dict(pi=..., qf=...)`` off-policy.

    :param observation_space: observation space
    :param action_space: action space
    :param lr_schedule: learning rate schedule
    :param placement: where the experts sit: ``"none"``, ``"middle"``, ``"final"``, ``"all"``,
        ``"body"``, ``"big"``; see :class:`sb3_moe.policies.options.MoEOptions` for this and the
        other options
    :param router: ``"soft"``, ``"top_k"``, ``"expert_choice"``, ``"task"``, ``"embedding"``,
        ``"belief"``, ``"uniform"``, ``"random"``, or a class of your own
    :param router_kwargs: the router's own options
    :param num_experts: how many experts; None: the number of tasks for ``"task"``, of models for
        ``"belief"``, else 4
    :param top_k: experts per token; None: 1, or all of them for ``"belief"``
    :param renormalize: make the gates of the kept experts sum to 1
    :param tokens: what one token is: ``"sample"``, ``"conv"`` or ``"feature"``
    :param num_slots: slots per expert for the soft router; None: ceil(tokens / experts)
    :param combine: how the experts' outputs are combined: ``"sum"`` or ``"orthogonal"``
    :param expert: the kind of expert: ``"mlp"``, ``"linear"``, ``"simba"``, or a class of your own
    :param expert_kwargs: the expert's own options
    :param expert_width: hidden width of an expert; None: that of the dense layer it replaces
    :param block: what hidden layers consist of, both outside and inside experts: ``"mlp"``,
        ``"layer_norm"`` or ``"simba"``
    :param head_router: ``"task"``: a head for each task
    :param normalize_router: L2-normalize tokens and router weights
    :param router_noise: noise on the router's scores, in off-policy training only
    :param balance_coef: weight of the load-balance loss
    :param importance_coef: weight of the importance loss
    :param z_coef: weight of the router's z-loss
    :param spectral_coef: size of the penalty on the experts' features; a single number applies to
        the actor alone, or to ``qf`` where there is no actor
    :param bias_rate: step of loss-free balancing
    :param freeze_idle: leave an expert unchanged in steps in which its gradient is zero, for
        example because no row reached it; None: do so where the task id picks the expert
    :param task_input: who sees the one-hot task id or the belief: ``"both"``, ``"router"``,
        ``"experts"``, ``"none"``; None: the router alone for ``"belief"``, else both
    :param task_embedding: width of a learned vector for each task in place of the one-hot
    :param ent_coef_per_task: learn an entropy temperature for each task (SAC, TQC and CrossQ, with
        ``ent_coef=1.0``)
    :param task_gradients: how the gradients of several tasks are combined: None (added up) or
        ``"pcgrad"``; a single value applies to the actor alone, or to ``qf`` where there is no
        actor
    :param match_scale: scale the experts' initial weights so that their combined output starts as
        large as that of the dense layers they replace
    :param action_dims: how many dimensions each task's Box action has; the others are padding
    :param frozen_experts: indices of experts that stay unchanged while everything else learns, by
        network (``"pi"``, ``"qf"`` for all critics, ``"qf0"``) or mixture (``"pi.all.1"``)
    :param features_extractor_class: None: SB3's default if all networks are dense and can use it,
        else :class:`sb3_moe.policies.extractors.TaskExtractor`. A class of your own must be a
        subclass of TaskExtractor to keep a task id or a feature map apart
    :param features_extractor_kwargs: arguments of the features extractor
    :param net_arch: widths of the hidden layers; None: SB3's default, or ``[512]`` behind an image
        encoder
    :raises TypeError: if an option is unknown or has the wrong type
    :raises ValueError: if a value or a combination is not valid
    """

    network_names: ClassVar[tuple[str, ...]] = ("pi", "vf")
    optimizer_defaults: ClassVar[dict[type[th.optim.Optimizer], dict[str, Any]]] = {}
    encodes_in_experts = True
    _has_experts = False

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        lr_schedule: Schedule,
        *,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        frozen_experts: Mapping[str, Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        _refuse_unknown(type(self), kwargs)
        names = self.network_names
        if isinstance(net_arch, dict) and (len(names) == 1 or not {*net_arch} <= {*names}):
            raise ValueError(
                "`net_arch` must be a list of widths, or with several networks a dict with one for "
                f"each, got {net_arch} for {list(names)}"
            )
        self.moe_options = {name: kwargs.pop(name, value) for name, value in DEFAULTS.items()}
        self.moe = per_network(self.moe_options, names)
        noise = max(each.router_options.get("router_noise", 0.0) for each in self.moe.values())
        if noise and "vf" in names:
            raise ValueError(
                "`router_noise` must be 0 for on-policy algorithms, since it changes the ratio of "
                f"new to old policy, got {noise}"
            )
        self._check_temperature()
        whole = any(each.place.whole for each in self.moe.values())
        self.raw_features = whole and self.encodes_in_experts
        extractor, extractor_kwargs = self._choose_extractor(
            observation_space,
            features_extractor_class,
            features_extractor_kwargs,
            normalized=not kwargs.get("normalize_images", True),
        )
        if net_arch is None and self.encodes_in_experts and issubclass(extractor, TaskExtractor):
            ends_in_map = extractor_kwargs["encoder"] != "flat"
            if ends_in_map and extractor_kwargs.get("features_dim") is None:
                net_arch = [512]
        self._default_to_expert_adam(kwargs)
        self._check_gsde(kwargs)
        super().__init__(  # type: ignore[call-arg, misc]  # to the policy behind this mixin
            observation_space,
            action_space,
            lr_schedule,  # type: ignore[arg-type]
            features_extractor_class=extractor,
            features_extractor_kwargs=extractor_kwargs,
            net_arch=net_arch,
            **kwargs,
        )
        self._has_experts = bool(self.moe_layers())
        self.set_frozen_experts(frozen_experts)

    # What the constructor decides.

    @classmethod
    def dense_extractor(cls) -> type[BaseFeaturesExtractor]:
        """Return the default features extractor of the SB3 policy behind this mixin."""
        inits = [vars(each)["__init__"] for each in cls.__mro__ if "__init__" in vars(each)]
        found = [signature(init).parameters.get("features_extractor_class") for init in inits]
        return next(p.default for p in found if p is not None and isinstance(p.default, type))

    def _choose_extractor(
        self,
        space: gym.Space,
        given: type[BaseFeaturesExtractor] | None,
        kwargs: dict[str, Any] | None,
        *,
        normalized: bool,
    ) -> tuple[type[BaseFeaturesExtractor], dict[str, Any]]:
        kwargs = dict(kwargs or {})
        dense = self.dense_extractor()
        encodes_images = dense is not FlattenExtractor
        if given is None:
            # SB3 adds this argument for its own image extractors.
            told = {"normalized_image": True} if normalized and encodes_images else {}
            given = self._default_extractor(space, kwargs | told)
        asked = kwargs.get("encoder", "auto" if encodes_images else "flat")
        encoder = default_encoder(space, normalized=normalized) if asked == "auto" else asked
        if issubclass(given, TaskExtractor):
            if normalized:
                kwargs["normalized_image"] = True
            kwargs["encoder"] = encoder
            if "cnn_output_dim" in kwargs:
                kwargs["features_dim"] = kwargs.pop("cnn_output_dim")
        elif self.raw_features:
            raise ValueError(
                "`placement`='big' holds the encoder inside each expert, so "
                "`features_extractor_class` must be TaskExtractor (or None), got "
                f"{given.__name__}; to name an encoder use "
                "features_extractor_kwargs=dict(encoder=...)"
            )
        # A policy for images must not flatten its observations silently.
        flattens = asked == "auto" and encoder == "flat"
        if flattens and dense is NatureCNN and issubclass(given, TaskExtractor | NatureCNN):
            raise ValueError(
                f"a policy for images, {type(self).__name__}, needs an image (a Box of three axes, "
                f"at least 3x3) in the observation, got {space}; for others use 'MoeMlpPolicy', or "
                "'MoeMultiInputPolicy' for a Dict"
            )
        return given, kwargs

    def _default_extractor(
        self, space: gym.Space, kwargs: dict[str, Any]
    ) -> type[BaseFeaturesExtractor]:
        plain = all(each.may_be_sb3s and each.experts_see_task for each in self.moe.values())
        dense = self.dense_extractor()
        sb3s = plain and not {*OURS} & {*kwargs} and _takes(dense, space, kwargs)
        return dense if sb3s else TaskExtractor

    def _default_to_expert_adam(self, kwargs: dict[str, Any]) -> None:
        """Replace Adam and AdamW by ExpertAdam and ExpertAdamW if any network has experts."""
        optimizer = kwargs.get("optimizer_class", th.optim.Adam)
        if optimizer not in EXPERT_ADAMS or not any(each.is_moe for each in self.moe.values()):
            return
        if kwargs.get("optimizer_kwargs") is None:  # SB3's defaults go by the original class
            kwargs["optimizer_kwargs"] = dict(self.optimizer_defaults.get(optimizer, {}))
        kwargs["optimizer_class"] = EXPERT_ADAMS[optimizer]

    def _check_temperature(self) -> None:
        has_temperature = hasattr(getattr(self, "actor_class", None), "action_log_prob")
        for network, options in self.moe.items():
            if options.ent_coef_per_task and not (has_temperature and network == "pi"):
                raise ValueError(
                    "`ent_coef_per_task`=True needs the actor of an algorithm that weighs "
                    f"log-probabilities by a temperature (SAC, TQC, CrossQ), got it for "
                    f"{network!r} of {type(self).__module__}"
                )

    def _check_gsde(self, kwargs: dict[str, Any]) -> None:
        if kwargs.get("use_sde") and self.moe["pi"].action_dims is not None:
            raise ValueError("`use_sde` must be False with `action_dims`, got True")
        if kwargs.get("use_sde") and self.moe["pi"].place.whole:
            raise ValueError(
                "`use_sde`=True needs the latent of the actor's last layer, which "
                f"`placement`={self.moe['pi'].place.name!r} keeps inside each expert: choose "
                "another placement for 'pi'"
            )

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """Build the features extractor; for ``"big"`` it leaves the encoding to the experts."""
        if not issubclass(self.features_extractor_class, TaskExtractor):
            return super().make_features_extractor()
        kwargs = {**self.features_extractor_kwargs, "raw": self.raw_features}
        return self.features_extractor_class(self.observation_space, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """Return what ``load`` needs: also this package's options, and arguments SB3 omits."""
        data = super()._get_constructor_parameters() | self.moe_options
        if self.frozen_experts is not None:
            data["frozen_experts"] = self.frozen_experts
        if hasattr(self, "share_features_extractor"):
            data["share_features_extractor"] = self.share_features_extractor
        return data

    def set_training_mode(self, mode: bool) -> None:
        """Set the mode, and notice before an update if the user has replaced an optimizer."""
        if not mode and self._has_experts and not self.training:
            return  # Setting the mode of all experts' modules takes a fifth of `predict`'s time.
        super().set_training_mode(mode)
        if mode and self._has_experts:
            self._teach_again()

    def obs_to_tensor(self, observation: Any) -> Any:
        """Turn observations into tensors as SB3's policy does.

        :raises ValueError: if a key is missing, or a task id is out of range; torch's errors would
            name neither
        """
        space: Any = self.observation_space
        if isinstance(space, gym.spaces.Dict):
            keys = [*space.spaces]
            found = [*observation] if isinstance(observation, dict) else type(observation).__name__
            if not {*keys} <= {*found}:
                raise ValueError(f"an observation must be a dict with {keys}, got {found}")
        if has_task_key(space):
            ids = np.asarray(observation[TASK_KEY])
            num_tasks = int(space[TASK_KEY].n)
            if ids.dtype.kind not in "iuf" or not ((ids >= 0) & (ids < num_tasks)).all():
                got = np.unique(ids).tolist()
                raise ValueError(
                    f"`{TASK_KEY}` of an observation must be in [0, {num_tasks}), got {got}"
                )
        return super().obs_to_tensor(observation)

    # Networks.

    @staticmethod
    def layout(extractor: BaseFeaturesExtractor, action_dim: int = 0) -> Layout:
        """Return the layout of the input that a network behind this extractor gets."""
        if not isinstance(extractor, TaskExtractor):
            return Layout(x_dim=extractor.features_dim, action_dim=action_dim)
        return Layout(
            x_dim=extractor.features_dim - extractor.num_tasks,
            num_tasks=extractor.num_tasks,
            action_dim=action_dim,
            map_shape=extractor.map_shape,
            image_shape=extractor.image_shape,
            encoder=extractor.encoder,
            tells_task=extractor.tells_task,
        )

    def uses_sb3_network(self, network: str, layout: Layout) -> bool:
        """Say whether a network can be SB3's own, unchanged."""
        options = self.moe[network]
        may_be_sb3s = options.may_be_sb3s and not options.is_given("block")
        sees_task = options.experts_see_task or layout.num_tasks == 0
        return may_be_sb3s and sees_task and layout.image_shape is None


def _takes(
    extractor: type[BaseFeaturesExtractor], space: gym.Space, kwargs: dict[str, Any]
) -> bool:
    """Say whether SB3's extractor can be built for a space; random numbers stay as they were.

    SB3 treats only uint8 Boxes in [0, 255] as images, and these must have at least 36x36 pixels.
    Its FlattenExtractor can be built for a Dict space, but fails on a Dict observation.
    """
    if isinstance(space, gym.spaces.Dict) and issubclass(extractor, FlattenExtractor):
        return False
    with th.random.fork_rng(devices=[]):
        try:
            extractor(copy.deepcopy(space), **kwargs)
        except (AssertionError, RuntimeError):
            return False
    return True


def _refuse_unknown(policy: type[MoEPolicy], kwargs: dict[str, Any]) -> None:
    """Refuse unknown arguments here, since Python's own error would name SB3's class."""
    known = {name for each in policy.__mro__ for name in signature(each).parameters} | {*DEFAULTS}
    for name in [name for name in kwargs if name not in known]:
        hint = did_you_mean(name, known)
        if name in OURS:
            hint = f"; it belongs in features_extractor_kwargs=dict({name}=...)"
        elif not hint:
            hint = "; what a router or an expert of your own takes goes into router_kwargs or "
            hint += "expert_kwargs"
        raise TypeError(f"{policy.__name__} got an unexpected keyword argument {name!r}{hint}")
