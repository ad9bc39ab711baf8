"""What anyone may ask about a policy's networks, and the answers that all families share.

Shapes: B batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from inspect import Parameter, signature
from operator import attrgetter
from string import digits
from typing import Any, ClassVar, NamedTuple

import torch as th
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_moe.networks.decisions import Decision
from sb3_moe.vec_env.task_ids import TASK_KEY, one_hot_behind, strongest

TARGET = "_target"


def tower_of(mixture: str) -> str:
    """Return the tower of a mixture, or of any part that is named after one: ``"qf0"``."""
    return mixture.partition(".")[0]


def kind_of(mixture: str) -> str:
    """Return what stands for a tower in options: ``"qf"`` for each of several critics."""
    return tower_of(mixture).rstrip(digits)


def uncompiled(module: Any) -> Any:
    """Return the module that ``torch.compile`` wraps, or the module itself."""
    return getattr(module, "_orig_mod", module)


class Network(NamedTuple):
    """One online network, from features to output.

    :param tower: its name: ``"pi"``, ``"vf"``, ``"qf"``, or ``"qf0"`` for the first critic
    :param extractor: what it sees observations through
    :param hidden: its hidden layers, with the output layer where there are no ``heads``
    :param heads: what reads the last hidden layer
    :param memory: what reads the features before ``hidden`` does (an LSTM), if anything
    """

    tower: str
    extractor: nn.Module
    hidden: nn.Module
    heads: tuple[nn.Module, ...] = ()
    memory: nn.Module | None = None


class Networks(ABC):
    """The networks of one policy; a subclass knows where its family of policies keeps them.

    A subclass answers ``fits``, ``networks``, ``run`` and ``outputs``, and overrides what else is
    different in its family.

    :param policy: SB3's, or one like it
    """

    # Arguments of the constructor that are kept under another name, by path in the policy.
    kept_as: ClassVar[Mapping[str, str]] = {}

    def __init__(self, policy: BaseModel) -> None:
        self.policy: Any = policy

    @classmethod
    @abstractmethod
    def fits(cls, policy: BaseModel) -> bool:
        """Say whether a policy is of this family, by what it has."""

    @abstractmethod
    def networks(self) -> list[Network]:
        """Return every online network, the actor first."""

    @abstractmethod
    def run(self, obs: PyTorchObs, actions: th.Tensor | None = None) -> None:
        """Run every tower once, at the start of an episode.

        :param obs: a batch of observations on the policy's device
        :param actions: for critics of actions; None: the actor's most likely ones
        """

    @abstractmethod
    def outputs(self, obs: PyTorchObs) -> dict[str, th.Tensor]:
        """Return one scalar of each tower's output for every sample, (B,), with a graph.

        A critic's is its value; an actor's is the log-probability of the most likely action, or
        the sum of the components of a continuous one.

        :param obs: a batch of observations on the policy's device
        """

    def decide(
        self, obs: PyTorchObs, memory: Any, starts: th.Tensor, **masks: Any
    ) -> tuple[Decision, Any]:
        """Return what the policy thinks of its actions in one step, and its memory after it.

        :param obs: a batch of observations on the policy's device
        :param memory: what it returned in the step before; None at first
        :param starts: 1 where an episode starts, (B,)
        :param masks: ``action_masks`` where the policy takes them
        :raises TypeError: if the family doesn't say
        """
        raise TypeError(f"{type(self).__name__} doesn't say what its policies think of actions")

    def taken(self, obs: PyTorchObs, actions: th.Tensor) -> list[th.Tensor]:
        """Return what the policy says of actions that were taken, (B,) each, with a graph.

        The squared gradients of a sample, summed over the list, are its Fisher information: of the
        log-probability where there is one, and of each critic's value of the action.

        :param obs: a batch of observations on the policy's device
        :param actions: as the algorithm keeps them in its buffer, on that device
        :raises TypeError: if the family doesn't say
        """
        raise TypeError(f"{type(self).__name__} doesn't say what its policies think of actions")

    # Where things are.

    def towers(self) -> dict[str, list[nn.Module]]:
        """Return each online tower's modules, from features to output."""
        return {net.tower: [net.hidden, *net.heads] for net in self.networks()}

    def extractors(self) -> dict[str, nn.Module]:
        """Return the online features extractors: ``"features"``, and the critic's own if any."""
        first, *others = (net.extractor for net in self.networks())
        found = {"features": first}
        for extractor in others:
            if extractor is not first:
                found["vf_features"] = extractor
        return found

    def memories(self) -> dict[str, nn.Module]:
        """Return what stands between the features extractors and the towers."""
        return {}

    def loose(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters that lie in no layer, such as a Gaussian's ``log_std``, by part."""
        return {name: [each] for name, each in self.policy.named_parameters(recurse=False)}

    def parts(self) -> dict[str, list[nn.Module | nn.Parameter]]:
        """Return all that is online by name; every parameter is in exactly one part."""
        parts: dict[str, list[nn.Module | nn.Parameter]] = {}
        for named in (self.extractors(), self.memories()):
            parts |= {name: [module] for name, module in named.items()}
        for tower, modules in self.towers().items():
            parts[tower] = list(modules)
        for name, parameters in self.loose().items():
            parts.setdefault(name, []).extend(parameters)
        return parts

    def owners(self) -> dict[nn.Module | nn.Parameter, str]:
        """Return the name of the part that each online module and parameter is in.

        What a policy has beside its family's parts goes by its own name there.
        """
        held = [(name, each) for name, part in self.parts().items() for each in part]
        held += self.online().items()
        owners: dict[nn.Module | nn.Parameter, str] = {}
        for name, each in held:
            if isinstance(each, nn.Parameter):
                owners.setdefault(each, name)
                continue
            inside: list[nn.Module | nn.Parameter] = [*each.modules(), *each.parameters()]
            for one in inside:
                owners.setdefault(one, name)
        return owners

    def online(self) -> dict[str, nn.Module]:
        """Return the policy's own modules by name, without target networks."""
        children = self.policy.named_children()
        return {name: child for name, child in children if not name.endswith(TARGET)}

    def targets(self) -> dict[nn.Module, nn.Module]:
        """Return the target network that follows each online one, if any follows it."""
        children = dict(self.policy.named_children())
        pairs = ((children[name], children.get(name + TARGET)) for name in self.online())
        return {online: target for online, target in pairs if target is not None}

    def follower(self, module: nn.Module) -> nn.Module | None:
        """Return the module of a target network that follows an online one.

        :param module: an online network, or any module inside one
        """
        for online, target in self.targets().items():
            for mine, theirs in zip(online.modules(), target.modules(), strict=True):
                if mine is module:
                    return theirs
        return None

    def squash(self) -> nn.Module | None:
        """Return the activation, if any, that squashes the actor's output and is no hidden one."""
        return None

    # How it learns, and is built.

    def optimizers(self) -> dict[str, th.optim.Optimizer]:
        """Return the optimizer of each tower; towers may share one."""
        return dict.fromkeys(self.towers(), self.policy.optimizer)

    def every_optimizer(self) -> list[th.optim.Optimizer]:
        """Return each optimizer once, the actor's first."""
        return list(dict.fromkeys(self.optimizers().values()))

    def critic_optimizer(self) -> th.optim.Optimizer | None:
        """Return the optimizer whose gradients another loss adds to after its step, if any."""
        return None

    def constructor_arguments(self) -> dict[str, Any]:
        """Return what the policy was built with.

        SB3's policies give back what ``load`` needs, but for a few arguments (whether features are
        shared, the sizes of an LSTM), which stand in attributes.
        """
        given: dict[str, Any] = self.policy._get_constructor_parameters()
        for parameter in signature(type(self.policy)).parameters.values():
            name = parameter.name
            if name in given or parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
                continue
            try:
                given[name] = attrgetter(self.kept_as.get(name, name))(self.policy)
            except AttributeError:
                continue  # The class's own; whoever builds again checks whether it matters.
        return given

    # What observations say.

    def task_ids(self, obs: PyTorchObs) -> th.Tensor | None:
        """Return the task of each observation, (B,), None where observations don't tell.

        :param obs: a batch of observations on the policy's device
        """
        if isinstance(obs, dict):
            return obs[TASK_KEY].flatten().long() if TASK_KEY in obs else None
        extractor: Any = self.extractors()["features"]
        num_tasks = one_hot_behind(extractor)
        if not num_tasks:
            return None
        # The actor-critic's own method takes no extractor where there are two.
        features = BaseModel.extract_features(self.policy, obs, extractor)
        ids: th.Tensor = strongest(features[:, -num_tasks:])
        return ids
