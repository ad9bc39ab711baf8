"""Callbacks that measure networks and routers on observations of every task, over time.

Shapes: K measurements, B samples, N tasks (in gates_BNE: tokens), E experts.
"""

import math
from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Figure, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from sb3_moe.callbacks.periodic import RecordingCallback, refuse_trpo, remembered
from sb3_moe.layers import MoELayer
from sb3_moe.layers.checks import not_negative, positive, whole, whole_or_none
from sb3_moe.layers.moe import hold_router, router_parameters
from sb3_moe.measures.hidden import expert_outputs, hidden_layers, online_parameters
from sb3_moe.measures.plasticity import (
    TAUS,
    CriticGradients,
    joint_norm,
    measure_gradients,
    measure_layers,
    measure_ntk,
    measure_weights,
)
from sb3_moe.measures.statistics import agreement, load_entropy, specialization
from sb3_moe.policies.of_model import policy_of
from sb3_moe.saving.snapshot import preserved_generators
from sb3_moe.vec_env.evaluating import played, random_player
from sb3_moe.vec_env.make import make_pinned_env, synchronize, why_not_rebuildable
from sb3_moe.vec_env.observations import Obs, concatenate, map_observation, select, spread
from sb3_moe.vec_env.tasks import LAYER, short_names, task_names, tasks_played

# Observations are kept every STRIDE steps of play, at least ROUNDS times.
STRIDE = 4
ROUNDS = 10


def collect_probe(
    env: VecEnv, size: int, model: BaseAlgorithm | None = None, seed: int = 0
) -> list[Obs]:
    """Let a model play every task, and keep equally many observations of each task.

    :param env: a multi-task VecEnv in which each environment plays one task for good
    :param size: how many observations in all: ``size // N`` of each task
    :param model: the model whose policy samples actions; None: they are random
    :param seed: of the environments, and of random actions
    :return: one batch for each task
    :raises TypeError: if ``size`` is no int
    :raises ValueError: if ``size`` is below N, a task is not played, or an
        environment changes its task
    """
    names = task_names(env)
    whole("size", size, least=len(names))
    env.seed(seed)
    env.action_space.seed(seed)
    player = model or random_player(env)
    steps = played(player, env, env.reset(), deterministic=False)
    tasks = tasks_played(env)
    envs = [np.flatnonzero(tasks == k) for k in range(len(names))]
    wanted = size // len(envs)
    fewest = min(map(len, envs))
    rounds = max(ROUNDS, math.ceil(wanted / max(fewest, 1)))
    kept: list[Obs] = []
    for obs, *_ in islice(steps, STRIDE - 1, rounds * STRIDE, STRIDE):
        if not fewest or (tasks_played(env) != tasks).any():
            raise ValueError("`env` must not change its tasks: build it with make_pinned_env")
        kept.append(map_observation(np.array, obs))
    return [spread(concatenate([select(obs, mine) for obs in kept]), wanted) for mine in envs]


class ProbeCallback(RecordingCallback):
    """Measure the policy periodically on observations of every task, equally many of each.

    The observations are of states that the agent meets at that time: for each measurement it plays
    in separate environments, with actions sampled from its policy. Only environments of
    :func:`~sb3_moe.make_multitask_vec_env` can be built again for this. Any other must have a
    single task; its observations are then the latest ones of training, of every fourth step. The
    first measurement is at the start of the first rollout before which enough were collected, or at
    the end of training.

    :param every: global steps between measurements
    :param probe_size: how many observations in all, at least one for each task
    :param probe: fixed observations for all measurements, as the policy sees them, one batch for
        each task; None: those that the agent meets
    :param log_path: folder for ``diagnostics.npz``
    :param verbose: 0 or 1
    :raises TypeError: if ``probe_size`` is no int
    :raises ValueError: if a number is too small, or ``probe`` is not one batch for each task
    """

    def __init__(
        self,
        every: int = 50_000,
        *,
        probe_size: int = 256,
        probe: list[Obs] | None = None,
        log_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, log_path=log_path, verbose=verbose)
        whole("probe_size", probe_size)
        self.probe_size = probe_size
        self.probe = probe

    def init_callback(self, model: BaseAlgorithm) -> None:
        """Check that observations of every task can be collected."""
        super().init_callback(model)
        if not self.goes_on:
            self.forget()
        obstacle = why_not_rebuildable(self.training_env)
        self._watches = self.probe is None and obstacle is not None
        self._most = math.ceil(self.probe_size / self.training_env.num_envs)
        if self._watches and len(self.task_names) > 1:
            raise ValueError(
                f"`probe` must hold one batch of observations for each of {self.task_names}, got "
                f"None, and the environment can't be built again to collect them, since {obstacle}"
            )
        if self.probe is not None and len(self.probe) != len(self.task_names):
            raise ValueError(f"`probe` must be a list with one batch for each of {self.task_names}")

    def forget(self) -> None:
        """Drop observations that were collected for another model or for other tasks."""
        self._latest: list[Obs] = []

    def batches(self) -> list[Obs]:
        """Return observations of each task as the policy sees them."""
        if self.probe is not None:
            return self.probe
        if self._watches:
            return [concatenate(self._latest)]
        # Build new environments each time, as a resumed run does: the state of some outlives a
        # reset.
        with preserved_generators():
            env = make_pinned_env(self.training_env)
        # Epsilon-greedy policies draw from the action space's generator.
        with preserved_generators(self.model.action_space.np_random), closing(env):
            synchronize(self.training_env, env)
            return collect_probe(env, self.probe_size, self.model, self.model.seed or 0)

    def _is_due(self, step: int) -> bool:
        is_there = not self._watches or len(self._latest) == self._most
        return is_there and super()._is_due(step)

    def _on_step(self) -> bool:
        # Not `n_calls`, which a resumed run counts anew.
        if self._watches and self.num_timesteps // self.training_env.num_envs % STRIDE == 0:
            # Copy, because some environments write each observation into the same array.
            self._latest.append(map_observation(np.array, self.locals["new_obs"]))
            del self._latest[: -self._most]
        return super()._on_step()

    def _on_training_end(self) -> None:
        step = self.model.num_timesteps
        if self._last != step and (self._latest or not self._watches):
            super()._on_training_end()
            # SB3 writes logged values after a rollout, but no rollout follows: write them here.
            self.logger.record("time/total_timesteps", step, exclude="tensorboard")
            self.logger.dump(step)


# The measures that PlasticityCallback logs; its file holds all of them.
LOGGED = ("dormant", "inactive", "effective_rank", "ntk_rank", "weight_norm", "gradient_norm")


class PlasticityCallback(ProbeCallback):
    """Measure dormant neurons, ranks, weights and gradients of every network and layer.

    All are kept in ``diagnostics.npz``, those of layers under the names that
    :func:`~sb3_moe.measures.measure_layers` explains. Under ``plasticity/`` are logged ``dormant``
    and ``effective_rank`` by layer, ``ntk_rank``, ``weight_norm`` and ``gradient_norm`` by network.
    It measures before training, at the first start of a rollout after every ``every`` global steps,
    and at the end, on observations of the agent's own play, equally many of each task.
    ``weight_change/<network>`` is the norm of the change since the previous measurement, NaN at the
    first measurement of a process.

    :param every: global steps between measurements
    :param taus: thresholds of dormancy, each at least 0; the first is the primary one
    :param by_gradient: also measure ``inactive/<layer>`` and ``inactive@<tau>/<layer>``, the share
        of units that hardly any gradient reached in the last update (under TRPO only the critic's;
        that of a penalty on weights counts too); see :func:`~sb3_moe.measures.measure_gradients`
    :param ntk_size: samples for the rank of the neural tangent kernel; 0: it is not measured
    :param probe_size: how many observations in all, at least one for each task
    :param probe: fixed observations for all measurements, as the policy sees them, one batch for
        each task; None: those that the agent meets, see :class:`ProbeCallback`
    :param log_path: folder for ``diagnostics.npz``
    :param verbose: 0 or 1
    :raises TypeError: if a size isn't an int
    :raises ValueError: if a number is out of range, or the policy has no hidden layer
    """

    own = "weight_norm/"

    def __init__(
        self,
        every: int = 50_000,
        *,
        taus: Sequence[float] = TAUS,
        by_gradient: bool = False,
        ntk_size: int = 24,
        probe_size: int = 256,
        probe: list[Obs] | None = None,
        log_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            every, probe_size=probe_size, probe=probe, log_path=log_path, verbose=verbose
        )
        for tau in taus:
            not_negative("tau", tau)
        whole("ntk_size", ntk_size, least=0)
        self.taus = tuple(taus)
        self.by_gradient = by_gradient
        self.ntk_size = ntk_size
        self._gradients = CriticGradients()

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless the policy has a hidden layer with a known activation."""
        if not hidden_layers(model.policy):
            raise ValueError("`model` must have a hidden layer with a known activation, got none")

    def forget(self) -> None:
        """Drop observations and weights that were kept for another model or for other tasks."""
        super().forget()
        self._weights: dict[str, list[Tensor]] = {}

    def _on_training_start(self) -> None:
        self._gradients.attach(self.model.policy)
        super()._on_training_start()

    def _on_training_end(self) -> None:
        super()._on_training_end()
        self._gradients.detach()

    def act(self, step: int) -> None:
        """Measure, log and record."""
        policy = self.model.policy
        batches = self.batches()
        gradients = self._gradients.of_last_step
        measures = measure_layers(policy, batches, self.taus)
        measures |= measure_weights(policy, gradients) | self._weight_changes()
        if self.by_gradient:
            measures |= measure_gradients(policy, gradients, self.taus)
        if self.ntk_size:
            measures |= measure_ntk(policy, batches, self.ntk_size)
        self._log(measures)
        self.record.add(step, measures)

    def _weight_changes(self) -> dict[str, float]:
        before = self._weights
        now = online_parameters(self.model.policy)
        self._weights = {name: [p.detach().clone() for p in now[name]] for name in now}
        # The weights of a network whose experts joined or left can't be compared.
        same = [n for n in before if [p.shape for p in before[n]] == [p.shape for p in now[n]]]
        return {f"weight_change/{n}": joint_norm(map(th.sub, now[n], before[n])) for n in same}

    def _log(self, measures: dict[str, Any]) -> None:
        by_key: dict[str, dict[str, float]] = {f"plasticity/{kind}/{{}}": {} for kind in LOGGED}
        for name, value in measures.items():
            kind, place = name.split("/", 1)
            if kind in LOGGED:
                by_key[f"plasticity/{kind}/{{}}"][place] = value
        self.log_scalars(by_key, LAYER)


class RoutingCallback(ProbeCallback):
    """Log how the routers use the experts on observations of each task, under ``moe/``.

    For each mixture: ``specialization`` (mutual information between task and expert, from the
    absolute values of the gates), ``entropy`` (that of the experts' load, 1 where all have the
    same) and ``agreement`` (cosine similarity of the experts' outputs). TensorBoard gets an image
    of the gate that each task gives each expert. For a router that neither learns nor reads
    features, such as ``"task"``, only the agreement is logged.

    ``diagnostics.npz`` gets all measures: ``gates/<mixture>`` (K, N, E), the mean gates (those of
    ``"top_k"`` sum to less than 1), ``load`` (K, E), the experts' shares of the work (of the
    choices where the router chooses experts, else of the gates), ``entropy``, ``specialization``
    and ``agreement`` (K,).

    :param every: global steps between measurements
    :param probe_size: how many observations in all, at least one for each task
    :param probe: fixed observations for all measurements, as the policy sees them, one batch for
        each task; None: those that the agent meets, see :class:`ProbeCallback`
    :param log_path: folder for ``diagnostics.npz``
    :param verbose: 0 or 1
    :raises ValueError: if a number is out of range, or the policy has no mixture
    """

    own = "load/"

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError unless the policy has a mixture."""
        if not getattr(model.policy, "moe_layers", dict)():
            raise ValueError("`model` must have experts, as in PPO('MoeMlpPolicy', env)")

    @th.no_grad()
    def act(self, step: int) -> None:
        """Measure, log and record."""
        policy = policy_of(self.model)
        batches = self.batches()
        outputs = expert_outputs(policy, concatenate(batches))
        by_task = [policy.routing(batch) for batch in batches]
        row: dict[str, Any] = {}
        for name in by_task[0]:
            gates = [routing[name].gates_BNE.mean((0, 1)) for routing in by_task]
            gates_NE = th.stack(gates).double().cpu().numpy()
            load_NE = th.stack([routing[name].load_E for routing in by_task]).double()
            row[f"gates/{name}"] = gates_NE
            row[f"load/{name}"] = load_E = load_NE.cpu().numpy().mean(0)
            row[f"entropy/{name}"] = load_entropy(load_E)
            row[f"specialization/{name}"] = specialization(np.abs(gates_NE))
            row[f"agreement/{name}"] = agreement(outputs[name].cpu())
        self._log(row)
        self.record.add(step, row)

    def _log(self, row: dict[str, Any]) -> None:
        layers = policy_of(self.model).moe_layers()
        # Routers that learn, or that read features, which change as the networks learn.
        changing = [
            name
            for name, layer in layers.items()
            if layer.sees in ("tokens", "belief") or router_parameters(layer)
        ]
        shown = {"specialization": changing, "entropy": changing, "agreement": layers}
        by_key = {
            f"moe/{kind}/{{}}": {name: row[f"{kind}/{name}"] for name in names}
            for kind, names in shown.items()
        }
        self.log_scalars(by_key, LAYER)
        # To draw an image takes as long as all the rest, and only TensorBoard can show it.
        if any(isinstance(each, TensorBoardOutputFormat) for each in self.logger.output_formats):
            from sb3_moe.watching.figures import draw_gates  # matplotlib comes with the extras

            for name, place in zip(changing, short_names(changing, LAYER), strict=True):
                image = draw_gates(row[f"gates/{name}"], self.task_names, title=name)
                elsewhere = ("stdout", "log", "json", "csv")
                key = f"moe/gates/{place}"
                self.logger.record(key, Figure(image, close=False), exclude=elsewhere)


class FreezeRouterCallback(ProbeCallback):
    """Freeze a mixture's router once its gates have settled, or at a step (arXiv 2406.16437).

    Each measurement computes the gates on the observations of the previous measurement again, and
    logs ``moe/moved/<mixture>``: the share of a token's gates that has moved to other experts since
    then, on average. A frozen router keeps its weights, their running averages in the optimizer,
    and the bias of ``bias_rate`` bit for bit; the experts keep learning. When a router is
    frozen, ``moe/frozen/<mixture>`` is logged. Routers are frozen only in training with this
    callback; what a resumed run needs is kept in ``model.frozen_routers``, which SB3 saves.

    :param every: global steps between measurements
    :param bound: the gates have settled if their ``moe/moved`` is below this, in (0, 1]; None: only
        ``at_step`` counts
    :param patience: in how many measurements in a row it must be below ``bound``
    :param at_step: freeze every router at the first measurement that is at least this many global
        steps after training began; None: only ``bound`` counts
    :param probe_size: how many observations in all, at least one for each task
    :param probe: fixed observations for all measurements, as the policy sees them, one batch for
        each task; None: those that the agent meets
    :param verbose: 1 prints when a router is frozen
    :raises ValueError: if a number is out of range, or no router learns
    """

    def __init__(
        self,
        every: int,
        *,
        bound: float | None = 0.02,
        patience: int = 3,
        at_step: int | None = None,
        probe_size: int = 256,
        probe: list[Obs] | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(every, probe_size=probe_size, probe=probe, verbose=verbose)
        if bound is not None:
            positive("bound", bound, at_most=1.0)
        whole("patience", patience)
        whole_or_none("at_step", at_step)
        self.bound = bound
        self.patience = patience
        self.at_step = at_step

    def check_model(self, model: BaseAlgorithm) -> None:
        """Raise ValueError for TRPO, and for a policy without a router that learns."""
        refuse_trpo(model, type(self).__name__)
        layers: dict[str, MoELayer] = getattr(model.policy, "moe_layers", dict)()
        if not any(router_parameters(layer) for layer in layers.values()):
            raise ValueError("`model` must have a router that learns, such as `router`='soft'")

    def _routers(self) -> dict[str, MoELayer]:
        """Return the mixtures whose routers learn, looked up anew: adding experts replaces them."""
        layers = policy_of(self.model).moe_layers().items()
        return {name: layer for name, layer in layers if router_parameters(layer)}

    def _on_training_start(self) -> None:
        """Go on from what the model remembers."""
        self.kept = remembered(self.model, "frozen_routers")
        fresh = {"since": self.model.num_timesteps, "last": None, "updates": None}
        self.kept |= {**fresh, "frozen": [], "settled": {}, **self.kept}
        if self.kept.get("task_names") != self.task_names:
            self.kept |= {"task_names": self.task_names, "gates": {}, "latest": []}
        self._latest = self.kept["latest"]
        super()._on_training_start()
        self._hold(self.kept["frozen"])

    def _hold(self, frozen: Sequence[str]) -> None:
        """Hold the frozen routers, and release others that a broken-off training left held."""
        for name, layer in self._routers().items():
            hold_router(layer, name in frozen)

    def _resume(self, step: int) -> int | None:
        return self.kept["last"]

    def act(self, step: int) -> None:
        """Measure how far gates have moved, and freeze routers that have settled."""
        updates = getattr(self.model, "_n_updates", None)
        if updates is None or updates != self.kept["updates"]:  # else nothing has learned
            self._measure()
        self.kept |= {"last": step, "updates": updates}
        is_time = self.at_step is not None and step - self.kept["since"] >= self.at_step
        for name in self._routers():
            settles = is_time or self.kept["settled"].get(name, 0) >= self.patience
            if settles and name not in self.kept["frozen"]:
                self.kept["frozen"].append(name)
                self.log_scalars({"moe/frozen/{}": {name: 1}}, LAYER)
                self.say(f"The router of {name} is frozen at {step} steps")
        self._hold(self.kept["frozen"])

    @th.no_grad()
    def _measure(self) -> None:
        settled = self.kept["settled"]
        moved = {}
        before = self.kept["gates"]
        now = self._gates(self.kept["seen"]) if before else {}
        for name in self._routers():
            # Experts may have joined or left.
            if name not in before or before[name].shape != now[name].shape:
                continue
            distance = np.abs(now[name] - before[name]).sum(-1)
            moved[name] = float(distance.mean() / 2)
            has_settled = self.bound is not None and moved[name] < self.bound
            settled[name] = settled.get(name, 0) + 1 if has_settled else 0
        self.kept["seen"] = seen = concatenate(self.batches())
        self.kept["gates"] = self._gates(seen)
        self.log_scalars({"moe/moved/{}": moved}, LAYER)

    def _gates(self, obs: Obs) -> dict[str, np.ndarray]:
        """Return the gates (B, N, E) of every mixture."""
        routings = policy_of(self.model).routing(obs).items()
        return {name: each.gates_BNE.float().cpu().numpy() for name, each in routings}

    def _on_training_end(self) -> None:
        """Release all routers, so that the model's parameters are like any other model's."""
        self._hold(())
