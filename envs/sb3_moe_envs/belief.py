"""A belief about a hidden task: which of several small models explains what happens.

The idea is that of MOSAIC (Haruno, Wolpert and Kawato 2001) and of multiple model-based
reinforcement learning (Doya et al. 2002).

Shapes: n environments, B transitions, E models, D numbers of an observation, A of an action, I
inputs and O outputs of a model.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces

from sb3_moe_envs.checks import finite, positive, whole

BELIEF_KEY = "belief"
PREDICTS = ("transition", "reward", "both")
# Adam's constants, as in torch.
BETA_1 = 0.9
BETA_2 = 0.999
EPS = 1e-8
# What a model has come to, beside its arrays.
PROGRESS = ("num_active", "num_updates", "num_seen")
# A model learns nothing from a batch of which its share is below this part of an even share.
IDLE_BELOW = 0.01
# By how much the prior moves toward the models' shares of a batch.
PRIOR_RATE = 0.01
# A number whose deviation is smaller counts as constant, and is not divided by it.
CONSTANT_BELOW = 1e-8


class Transitions(NamedTuple):
    """Steps of environments.

    :param obs: the observations before the step, (B, D)
    :param actions: (B, A)
    :param rewards: (B, 1)
    :param next_obs: the observations after the step, (B, D)
    """

    obs: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_obs: np.ndarray

    def select(self, rows: Any) -> "Transitions":
        """Return some of the transitions."""
        return Transitions(*(array[rows] for array in self))


class Numbers:
    """Turn observations and actions into rows of numbers.

    :param keys: the parts of a Dict observation that count, side by side; None: it is no Dict
    :param sizes: for actions that are choices, how many there are of each; they become one-hots
    :param starts: the number of the first choice of each
    :param encode: a function from a batch of observations to (B, D), in place of `keys`
    """

    def __init__(
        self,
        keys: Sequence[str] | None,
        sizes: Sequence[int] = (),
        starts: Sequence[int] = (),
        encode: Callable[[Any], Any] | None = None,
    ) -> None:
        self.keys = keys
        self.sizes = [*sizes]
        self.starts = [*starts]
        self.encode = encode
        self._offsets = np.cumsum(self.sizes) - self.sizes - self.starts if self.sizes else None
        self._one_hots = np.eye(sum(self.sizes))

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments that are plain values."""
        return {"keys": self.keys, "sizes": self.sizes, "starts": self.starts}

    @classmethod
    def of_spaces(
        cls, observation_space: Space, action_space: Space, encode: Callable[[Any], Any] | None
    ) -> "Numbers":
        """Choose what counts: every flat Box of an observation, and all of an action.

        :raises ValueError: if a space is of another kind
        """
        keys = None
        if isinstance(observation_space, spaces.Dict):
            keys = [key for key, part in observation_space.items() if _is_flat(part)]
        if encode is None and not (_is_flat(observation_space) if keys is None else keys):
            raise ValueError(
                "a belief needs observations that are a flat Box, or a Dict with one, got "
                f"{observation_space}: for images and others give `encode=`, a function from a "
                "batch of observations to a few numbers for each"
            )
        if isinstance(action_space, spaces.Box):
            return cls(keys, encode=encode)
        if isinstance(action_space, spaces.Discrete):
            return cls(keys, [int(action_space.n)], [int(action_space.start)], encode)
        if isinstance(action_space, spaces.MultiDiscrete):
            sizes, starts = action_space.nvec.ravel(), action_space.start.ravel()
            return cls(keys, sizes.tolist(), starts.tolist(), encode)
        raise ValueError(f"actions must be Box, Discrete or MultiDiscrete, got {action_space}")

    def of_observations(self, obs: Any) -> np.ndarray:
        """Return the numbers of a batch of observations, (B, D)."""
        if self.encode is not None:
            rows = np.asarray(self.encode(obs), np.float64)
            if rows.ndim != 2:
                raise ValueError(f"`encode` must return an array (B, D), got {rows.shape}")
            return rows
        if self.keys is None:
            return np.asarray(obs, np.float64)
        return np.concatenate([obs[key] for key in self.keys], axis=1, dtype=np.float64)

    def of_actions(self, actions: Any) -> np.ndarray:
        """Return the numbers of a batch of actions, (B, A)."""
        rows = np.asarray(actions).reshape(len(actions), -1)
        if self._offsets is None:
            return rows.astype(np.float64)
        return self._one_hots[rows + self._offsets].sum(axis=1)


def _is_flat(space: Space) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 1


class Scale(NamedTuple):
    """Mean and variance of each of several numbers."""

    mean: np.ndarray
    variance: np.ndarray

    @property
    def divisor(self) -> np.ndarray:
        """The deviations, with 1 for numbers that are constant."""
        deviation = np.sqrt(self.variance)
        return np.where(deviation > CONSTANT_BELOW, deviation, 1.0)

    def standardize(self, rows: np.ndarray) -> np.ndarray:
        """Subtract the mean, and divide by the deviation."""
        return (rows - self.mean) / self.divisor

    def follow(self, rows: np.ndarray, share: float) -> "Scale":
        """Return mean and variance with more rows, which are a share of all."""
        moved = rows.mean(axis=0) - self.mean
        variance = (1.0 - share) * self.variance + share * rows.var(axis=0)
        return Scale(self.mean + share * moved, variance + share * (1.0 - share) * moved**2)


class Regression:
    """A small network for each model; all predict the same numbers, with Gaussian errors.

    The models share the variance of each number, which is learned. Inputs and targets are
    standardized by the mean and deviation of all transitions so far.

    :param num_models: E
    :param dims: widths of the layers: I, hidden ones, O
    :param min_variance: least variance of a standardized target
    """

    def __init__(self, num_models: int, dims: Sequence[int], min_variance: float) -> None:
        self.dims = dims
        self.min_variance = min_variance
        #: the weights of each layer, (E, inputs + 1, outputs), with the bias last
        self.weights = [np.zeros((num_models, i + 1, o)) for i, o in pairwise(dims)]
        self.log_variance_O = np.zeros(dims[-1])
        self.input_scale = Scale(np.zeros(dims[0]), np.zeros(dims[0]))
        self.target_scale = Scale(np.zeros(dims[-1]), np.zeros(dims[-1]))

    def draw(self, models: Any, random: np.random.Generator) -> None:
        """Draw the weights of some models anew; their predictions start near the mean."""
        for weight in self.weights:
            shape = weight[models].shape
            weight[models] = random.normal(size=shape) / math.sqrt(shape[1])
        self.weights[-1][models] *= 0.1

    def standardize_by(self, inputs_BI: np.ndarray, targets_BO: np.ndarray, share: float) -> None:
        """Let the means and deviations follow, and change no prediction by it.

        This is the rule of PopArt (van Hasselt et al. 2016), for inputs too.

        :param share: of these transitions in all that there have been, in (0, 1]; at 1 there is
            nothing to preserve
        """
        old_inputs, old_targets = self.input_scale, self.target_scale
        self.input_scale = old_inputs.follow(inputs_BI, share)
        self.target_scale = old_targets.follow(targets_BO, share)
        if share == 1.0:
            return
        first, last = self.weights[0], self.weights[-1]
        moved_I = (self.input_scale.mean - old_inputs.mean) / old_inputs.divisor
        first[:, -1] += moved_I @ first[:, :-1]
        first[:, :-1] *= (self.input_scale.divisor / old_inputs.divisor)[:, None]
        shrunk_O = old_targets.divisor / self.target_scale.divisor
        last *= shrunk_O
        last[:, -1] += (old_targets.mean - self.target_scale.mean) / self.target_scale.divisor
        self.log_variance_O += 2.0 * np.log(shrunk_O)

    def errors(
        self, inputs_BI: np.ndarray, targets_BO: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the errors of the predictions, (E, B, O), and what each layer has seen."""
        y = self.input_scale.standardize(inputs_BI)
        seen: list[np.ndarray] = []
        for weight in self.weights:
            x = np.tanh(y) if seen else y
            seen.append(x)
            y = x @ weight[:, :-1] + weight[:, -1:]
        return y - self.target_scale.standardize(targets_BO), seen

    @property
    def variance_O(self) -> np.ndarray:
        """Variance of each number's errors, in units of the target's own variance."""
        return np.exp(self.log_variance_O) + self.min_variance

    def log_likelihood(self, errors_EBO: np.ndarray) -> np.ndarray:
        """Return the log-likelihood of these errors, (E, B), up to a constant."""
        variance_O = self.variance_O
        return -0.5 * (np.square(errors_EBO) @ (1.0 / variance_O) + np.log(variance_O).sum())

    def gradients(
        self, errors_EBO: np.ndarray, seen: list[np.ndarray], shares_EB: np.ndarray
    ) -> list[np.ndarray]:
        """Return the gradients of the negative log-likelihood, summed with weights.

        :param errors_EBO: of :meth:`errors`
        :param seen: of :meth:`errors`
        :param shares_EB: weight of each model's log-likelihood of each transition
        :return: gradients of each layer's weights, and of the log-variances
        """
        variance_O = self.variance_O
        gradient = errors_EBO * (shares_EB[..., None] / variance_O)
        explained_O = (gradient * errors_EBO).sum(axis=(0, 1))
        slope_O = 0.5 * (shares_EB.sum() - explained_O) / variance_O
        of_variance = slope_O * np.exp(self.log_variance_O)
        of_weights = []
        for i in reversed(range(len(self.weights))):
            of_inputs = np.swapaxes(seen[i], -1, -2) @ gradient
            of_bias = gradient.sum(axis=1, keepdims=True)
            of_weights.append(np.concatenate([of_inputs, of_bias], axis=1))
            if i:
                below = gradient @ np.swapaxes(self.weights[i][:, :-1], 1, 2)
                gradient = below * (1.0 - np.square(seen[i]))
        return [*reversed(of_weights), of_variance]


class BeliefModels:
    """Small models of an environment, and the belief about which of them is right.

    Each model predicts the change of the observation from observation and action, or the reward
    from observation, action and next observation, or both. The log-posterior over the models is
    after each step

    .. math:: \\ell_t(k) = m \\, \\ell_{t-1}(k) + \\log p_k(x_t) + const

    with the memory m and the log-likelihood of the newest transition under model k. It starts from
    a prior, whose learned part is each model's share of the latest transitions.

    :param obs_dim: D
    :param action_dim: A
    :param num_models: E, the number of models there can be at most
    :param active: how many are used at first; the others have no share. None: all
    :param predicts: ``"transition"``, ``"reward"`` or ``"both"``
    :param hidden: widths of each model's hidden layers; none: the models are linear
    :param memory: m, in (0, 1]; below 1, the belief follows a task that changes in an episode
    :param carry: whether an episode starts from the last one's belief; False: from the prior
    :param prior_floor: share of the prior that is equal for all models, in (0, 1]
    :param min_variance: least variance of a predicted number, as a share of its own variance
    :param learning_rate: learning rate of the models' Adam
    :param max_grad_norm: norm to which the gradient of all models is clipped
    :param seed: of the first weights and of the batches; None: random
    :raises ValueError: if a value is out of range
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        num_models: int = 16,
        *,
        active: int | None = None,
        predicts: str = "transition",
        hidden: Sequence[int] = (),
        memory: float = 0.95,
        carry: bool = False,
        prior_floor: float = 0.1,
        min_variance: float = 1e-4,
        learning_rate: float = 1e-2,
        max_grad_norm: float = 1.0,
        seed: int | None = None,
    ) -> None:
        whole("num_models", num_models)
        if predicts not in PREDICTS:
            raise ValueError(f"`predicts` must be one of {[*PREDICTS]}, got {predicts!r}")
        if active is not None and whole("active", active) > num_models:
            raise ValueError(f"`active` must be at most num_models={num_models}, got {active}")
        for width in hidden:
            whole("hidden", width)
        for name, value in (("memory", memory), ("prior_floor", prior_floor)):
            if not 0.0 < finite(name, value) <= 1.0:
                raise ValueError(f"`{name}` must be in (0, 1], got {value}")
        self.settings: dict[str, Any] = {
            "obs_dim": obs_dim,
            "action_dim": action_dim,
            "num_models": num_models,
            "predicts": predicts,
            "hidden": [*hidden],
            "memory": memory,
            "carry": carry,
            "prior_floor": prior_floor,
            "min_variance": positive("min_variance", min_variance),
            "learning_rate": positive("learning_rate", learning_rate),
            "max_grad_norm": positive("max_grad_norm", max_grad_norm),
        }
        inputs = {"transition": obs_dim + action_dim, "reward": 2 * obs_dim + action_dim}
        outputs = {"transition": obs_dim, "reward": 1}
        self.regressions = {
            name: Regression(num_models, [inputs[name], *hidden, outputs[name]], min_variance)
            for name in inputs
            if predicts in (name, "both")
        }
        self.num_models = num_models
        self.num_active = active or num_models
        self.memory = memory
        self.carry = carry
        self.shares_E = np.ones(num_models) / num_models
        #: how many steps of Adam each model has taken, how many batches there were, and how many
        #: transitions to standardize by
        self.steps_E = np.zeros(num_models)
        self.num_updates = 0
        self.num_seen = 0
        self._means = [np.zeros_like(value) for value in self._learned()]
        self._squares = [np.zeros_like(value) for value in self._learned()]
        self.draw(seed)

    def draw(self, seed: int | None) -> None:
        """Draw all models' weights, and let later random numbers follow from the seed too."""
        self.random = np.random.default_rng(seed)
        for regression in self.regressions.values():
            regression.draw(slice(None), self.random)

    @property
    def num_spare(self) -> int:
        """How many models have no share yet."""
        return self.num_models - self.num_active

    # The belief.

    def log_prior(self) -> np.ndarray:
        """Return the logarithm of the prior over models, (E,); without a share it is -inf."""
        shares_E = np.where(np.arange(self.num_models) < self.num_active, self.shares_E, 0.0)
        floor = self.settings["prior_floor"]
        prior_E = (1.0 - floor) * shares_E / shares_E.sum()
        prior_E[: self.num_active] += floor / self.num_active
        with np.errstate(divide="ignore"):
            return np.log(prior_E)

    def start(self, log_belief: np.ndarray) -> np.ndarray:
        """Return the logarithm of the beliefs with which episodes start, (..., E).

        :param log_belief: of the beliefs with which the episodes before them ended
        """
        return log_belief if self.carry else np.broadcast_to(self.log_prior(), log_belief.shape)

    def log_likelihood(self, transitions: Transitions) -> np.ndarray:
        """Return the log-likelihood of each transition under each model, (B, E).

        It is exact up to a constant that all models share. Before the first update all are 0.
        """
        if not self.num_updates:
            return np.zeros((len(transitions.obs), self.num_models))
        return self._likelihood(transitions)[0].T

    def follow(self, log_belief: np.ndarray, log_likelihood: np.ndarray) -> np.ndarray:
        """Return the logarithm of the belief after one more transition, (..., E).

        :param log_belief: of the belief before it
        :param log_likelihood: of the transition under each model
        """
        joint = self.memory * log_belief + log_likelihood
        joint = joint - joint.max(axis=-1, keepdims=True)
        return joint - np.log(np.exp(joint).sum(axis=-1, keepdims=True))

    def _likelihood(self, transitions: Transitions) -> tuple[np.ndarray, list[Any]]:
        """Return the log-likelihoods (E, B), and each regression's errors and inputs of layers."""
        details = [
            regression.errors(*_task(name, transitions))
            for name, regression in self.regressions.items()
        ]
        pairs = zip(self.regressions.values(), details, strict=True)
        found = [regression.log_likelihood(errors) for regression, (errors, _) in pairs]
        return np.sum(found, axis=0), details

    # Learning.

    def learn(
        self, transitions: Transitions, log_belief: np.ndarray, steps: int, batch_size: int
    ) -> None:
        """Fit the models to transitions, each weighed by its posterior.

        :param transitions: those drawn from; inputs and targets are standardized by them too
        :param log_belief: logarithm of the belief before each transition, (B, E)
        :param steps: number of Adam's steps
        :param batch_size: transitions in each step
        """
        self.num_seen += len(log_belief)
        for name, regression in self.regressions.items():
            share = len(log_belief) / self.num_seen
            regression.standardize_by(*_task(name, transitions), share)
        for rows in self._batches(len(log_belief), steps, batch_size):
            self._update(transitions.select(rows), log_belief[rows])

    def activate(self, transitions: Transitions, steps: int, batch_size: int) -> int:
        """Give the next spare model a share, fit it alone to transitions, and return its number.

        The variances stay as they are, and so do the other models' likelihoods.

        :param transitions: what the model is to explain
        :param steps: number of Adam's steps
        :param batch_size: transitions in each step
        :raises ValueError: if there is no spare model
        """
        if not self.num_spare:
            raise ValueError(f"`num_models`={self.num_models} leaves no spare model")
        k = self.num_active
        self.num_active += 1
        self.shares_E[k] = self.shares_E[:k].mean()
        self.steps_E[k] = 0
        for regression in self.regressions.values():
            regression.draw(k, self.random)
        for moment in (*self._means, *self._squares):
            if moment.ndim > 1:
                moment[k] = 0.0
        for rows in self._batches(len(transitions.obs), steps, batch_size):
            self._update(transitions.select(rows), None, only=k)
        return k

    def _batches(self, count: int, steps: int, batch_size: int) -> Iterator[np.ndarray]:
        for _ in range(steps):
            yield self.random.integers(count, size=min(batch_size, count))

    def _update(
        self, batch: Transitions, log_belief: np.ndarray | None, only: int | None = None
    ) -> None:
        """Take a step of Adam.

        A model with next to no share of the batch stays as it is, so that it doesn't forget its
        task while other tasks are played.

        :param log_belief: logarithm of the belief before each transition, (B, E)
        :param only: number of the one model that learns, as if it explained all; None: all learn
        """
        self.num_updates += 1
        log_likelihood_EB, details = self._likelihood(batch)
        if log_belief is None:
            active_E = np.arange(self.num_models) == only
            shares_EB = np.repeat(active_E[:, None], len(batch.obs), axis=1).astype(np.float64)
        else:
            shares_EB = np.exp(self.follow(log_belief, log_likelihood_EB.T)).T
            share_E = shares_EB.mean(axis=1)
            active_E = share_E * self.num_active >= IDLE_BELOW
            self.shares_E += PRIOR_RATE * (share_E - self.shares_E)
        shares_EB /= len(batch.obs)
        pairs = zip(self.regressions.values(), details, strict=True)
        gradients = [
            gradient
            for regression, (errors, seen) in pairs
            for gradient in regression.gradients(errors, seen, shares_EB)
        ]
        self._step(gradients, active_E, moves_variance=only is None)

    def _learned(self) -> list[np.ndarray]:
        """Return what learns: the layers of each regression, and its log-variances."""
        models = self.regressions.values()
        return [array for each in models for array in (*each.weights, each.log_variance_O)]

    def _step(
        self, gradients: list[np.ndarray], active_E: np.ndarray, *, moves_variance: bool
    ) -> None:
        """Take a step of Adam with the active models only."""
        norm = math.sqrt(sum(float(np.square(gradient).sum()) for gradient in gradients))
        clipped = min(1.0, self.settings["max_grad_norm"] / (norm + 1e-6))
        self.steps_E += active_E
        learned = zip(self._learned(), self._means, self._squares, gradients, strict=True)
        for value, mean, square, gradient in learned:
            is_variance = value.ndim == 1
            if is_variance and not moves_variance:
                continue
            rows: Any = ... if is_variance else active_E
            steps: Any = self.num_updates if is_variance else self.steps_E[rows][:, None, None]
            step = clipped * gradient[rows]
            mean[rows] = BETA_1 * mean[rows] + (1.0 - BETA_1) * step
            square[rows] = BETA_2 * square[rows] + (1.0 - BETA_2) * np.square(step)
            size = np.sqrt(1.0 - BETA_2**steps) / (1.0 - BETA_1**steps)
            size = self.settings["learning_rate"] * size
            value[rows] -= size * mean[rows] / (np.sqrt(square[rows]) + EPS)

    # Files.

    def state(self) -> dict[str, Any]:
        """Return the models as plain values and arrays."""
        progress = {name: getattr(self, name) for name in PROGRESS}
        progress["random"] = self.random.bit_generator.state
        return {"settings": self.settings, "progress": progress, "arrays": self._arrays()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "BeliefModels":
        """Return the models that :meth:`state` described."""
        models = cls(**state["settings"])
        progress = dict(state["progress"])
        models.random.bit_generator.state = progress.pop("random")
        vars(models).update(progress)
        for name, array in models._arrays().items():
            array[...] = state["arrays"][name]
        return models

    def _arrays(self) -> dict[str, np.ndarray]:
        """Return every array that the models consist of, by name."""
        found = {"shares": self.shares_E, "steps": self.steps_E}
        for name, regression in self.regressions.items():
            scales = (*regression.input_scale, *regression.target_scale)
            found |= {f"{name}/scale/{i}": array for i, array in enumerate(scales)}
        kinds = {"learned": self._learned(), "means": self._means, "squares": self._squares}
        for kind, arrays in kinds.items():
            found |= {f"{kind}/{i}": array for i, array in enumerate(arrays)}
        return found


def _task(name: str, transitions: Transitions) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets of a regression."""
    obs, actions, rewards, next_obs = transitions
    if name == "transition":
        return np.concatenate([obs, actions], axis=1), next_obs - obs
    return np.concatenate([obs, actions, next_obs], axis=1), rewards


def write_belief(path: str | os.PathLike[str], models: BeliefModels, numbers: Numbers) -> None:
    """Write models, and what they see of observations and actions, to an NPZ file.

    :param path: the file; a name without an ending gets ``.npz``. An older one is replaced when the
        new one is whole
    """
    state = models.state()
    plain = {"numbers": numbers.settings, **{key: state[key] for key in ("settings", "progress")}}
    target = _with_ending(path)
    temporary = f"{target}.tmp.npz"
    np.savez(temporary, plain=json.dumps(plain), **state["arrays"])
    os.replace(temporary, target)


def read_belief(
    path: str | os.PathLike[str], encode: Callable[[Any], Any] | None = None
) -> tuple[BeliefModels, Numbers]:
    """Read a file of :func:`write_belief`; nothing in it is run."""
    with np.load(_with_ending(path), allow_pickle=False) as file:
        arrays = dict(file)
    plain = json.loads(str(arrays.pop("plain")))
    models = BeliefModels.from_state({**plain, "arrays": arrays})
    return models, Numbers(**plain["numbers"], encode=encode)


def _with_ending(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    return name if os.path.splitext(name)[1] else f"{name}.npz"


class Belief:
    """Keep the belief where an agent acts without an environment, such as on a robot.

    It needs neither torch nor SB3, and takes what the training environment's models have learned:

    .. code-block:: python

        belief = Belief.load("belief.npz")
        obs = belief.start(sensors)
        obs = belief.step(action, sensors, reward)

    :param models: the models
    :param numbers: what they see of observations and actions
    """

    def __init__(self, models: BeliefModels, numbers: Numbers) -> None:
        self.models = models
        self.numbers = numbers
        self._log_belief_1E = models.log_prior()[None]
        self._obs_1D = np.zeros((1, 0))

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], encode: Callable[[Any], Any] | None = None
    ) -> "Belief":
        """Read the file that :meth:`sb3_moe.vec_env.VecBelief.save` wrote; nothing in it is run.

        :param path: the file
        :param encode: the function that the wrapper was given, if it was
        """
        return cls(*read_belief(path, encode))

    def start(self, obs: Any) -> dict[str, Any]:
        """Start an episode, and return the observation with the belief: what the policy takes.

        :param obs: one observation; normalized, if the wrapper's were
        """
        self._log_belief_1E = self.models.start(self._log_belief_1E)
        self._obs_1D = self._numbers_of(obs)
        return self._shown(obs)

    def step(self, action: Any, obs: Any, reward: float = 0.0) -> dict[str, Any]:
        """Take note of a step, and return the observation with the belief.

        :param action: the action that was taken
        :param obs: the observation that followed
        :param reward: the reward of the step; only models of rewards need it
        """
        actions = self.numbers.of_actions(np.asarray(action)[None])
        next_obs = self._numbers_of(obs)
        newest = Transitions(self._obs_1D, actions, np.array([[reward]]), next_obs)
        likelihood = self.models.log_likelihood(newest)
        self._log_belief_1E = self.models.follow(self._log_belief_1E, likelihood)
        self._obs_1D = next_obs
        return self._shown(obs)

    def _numbers_of(self, obs: Any) -> np.ndarray:
        if isinstance(obs, Mapping):
            return self.numbers.of_observations({key: np.asarray(obs[key])[None] for key in obs})
        return self.numbers.of_observations(np.asarray(obs)[None])

    def _shown(self, obs: Any) -> dict[str, Any]:
        parts = obs if isinstance(obs, Mapping) else {"obs": obs}
        return {**parts, BELIEF_KEY: np.exp(self._log_belief_1E[0]).astype(np.float32)}
