"""A belief about the hidden task, kept by a wrapper, as VecNormalize keeps its statistics.

Shapes: n environments, E models, T steps, D numbers of an observation, A of an action.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_moe.layers.checks import whole
from sb3_moe.vec_env.past import VecPast
from sb3_moe.vec_env.task_ids import BELIEF_KEY


class VecBelief(VecPast):
    """Show which of several models explains each environment's episode, as ``"belief"``.

    A task that nobody names shows in what happens. The belief, (n, E) and float32, is the posterior
    over small models of the environment, and is updated in each step from that step alone: see
    :class:`sb3_moe_envs.belief.BeliefModels`. Any algorithm can use it, with SB3's own
    ``"MultiInputPolicy"``, or with experts that it weighs (``router="belief"``).

    >>> from stable_baselines3 import PPO
    >>> from stable_baselines3.common.env_util import make_vec_env
    >>> env = VecBelief(make_vec_env("CartPole-v1", n_envs=4), num_models=4)
    >>> model = PPO("MultiInputPolicy", env, n_steps=64).learn(256)
    >>> env.reset()["belief"].shape
    (4, 4)

    The wrapper trains the models, as VecNormalize updates its statistics: every ``train_freq``
    steps, from the latest transitions. ``training=False`` stops that. See :class:`VecPast` for
    where a VecNormalize goes.

    An evaluation uses the models of the model's own environment and never trains them: SB3's
    ``evaluate_policy`` and ``EvalCallback`` find them at each reset.

    :param venv: with flat Box observations, or a Dict with some
    :param num_models: E, how many models there can be, best about twice the number of tasks
    :param encode: a function from a batch of observations to a few numbers of each, (n, D), which
        the models see in place of all flat Boxes; for images
    :param training: whether the models learn
    :param train_freq: steps of every environment between two trainings of the models
    :param gradient_steps: of each training
    :param batch_size: transitions in a gradient step
    :param buffer_size: from how many of the latest transitions the batches are drawn
    :param options: of :class:`sb3_moe_envs.belief.BeliefModels`: ``predicts``, ``hidden``,
        ``memory``, ``carry``, ``active``, ...
    :raises ValueError: as :class:`VecPast`; if a value is out of range; at a reset, if somebody
        evaluates a model here that has another belief
    """

    key = BELIEF_KEY
    #: the arguments that say how the models learn
    LEARNING = ("training", "train_freq", "gradient_steps", "batch_size", "buffer_size")

    def __init__(
        self,
        venv: VecEnv,
        num_models: int = 16,
        *,
        encode: Callable[[Any], Any] | None = None,
        training: bool = True,
        train_freq: int = 32,
        gradient_steps: int = 16,
        batch_size: int = 256,
        buffer_size: int = 4096,
        **options: Any,
    ) -> None:
        from sb3_moe_envs.belief import BeliefModels

        super().__init__(venv, encode)
        self.training = training
        self.train_freq = train_freq
        self.gradient_steps = gradient_steps
        self.batch_size = batch_size
        self.buffer_size = buffer_size
        for name in self.LEARNING[1:]:
            whole(name, getattr(self, name))
        self.use(BeliefModels(self._obs_nD.shape[1], self._action_dim, num_models, **options))

    def use(self, models: Any) -> None:
        """Take these models from now on.

        :param models: :class:`sb3_moe_envs.belief.BeliefModels`, possibly those of another wrapper
        """
        self.models = models
        #: logarithms of the beliefs, (n, E)
        self.log_belief = np.tile(models.log_prior(), (self.num_envs, 1))
        #: log-likelihoods of the newest transitions under each model, (n, E)
        self.log_likelihood = np.zeros_like(self.log_belief)
        # A row for each step of all environments, at least those between two trainings; beliefs of
        # other models must not be among them.
        self._recent = _Recent(max(self.buffer_size // self.num_envs, self.train_freq))
        self._steps_to_learn = 0
        self._show(spaces.Box(0.0, 1.0, (models.num_models,), np.float32))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the environments, and the models if these have not learned yet."""
        if self.training and seed is not None and not self.models.num_updates:
            self.models.draw(seed)
        return self.venv.seed(seed)

    # Steps.

    def _begin(self, which: Any) -> None:
        self.log_belief[which] = self.models.start(self.log_belief[which])

    def _observe(self, transitions: Any) -> None:
        if self.training:
            self._recent.add(*transitions, self.log_belief)
            self._steps_to_learn += 1
        self.log_likelihood = self.models.log_likelihood(transitions)
        self.log_belief = self.models.follow(self.log_belief, self.log_likelihood)

    def _added(self) -> np.ndarray:
        return np.exp(self.log_belief).astype(np.float32)

    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step; the models learn first if it is time."""
        # Here and not after the last step: callbacks may act on transitions that are yet to be
        # learned from.
        if self.about_to_learn:
            self._steps_to_learn = 0
            *arrays, log_belief = self._recent.rows()
            transitions = self._transitions(arrays)
            self.models.learn(transitions, log_belief, self.gradient_steps, self.batch_size)
        super().step_async(actions)

    @property
    def about_to_learn(self) -> bool:
        """Whether the models learn before the next step, from ``train_freq`` new steps too."""
        return self.training and self._steps_to_learn >= self.train_freq

    def activate(self, which: np.ndarray, steps: int) -> int:
        """Give the next spare model a share, for what some environments have shown lately.

        :param which: the environments, (n,) of booleans
        :param steps: gradient steps in which the model learns their last ``train_freq`` steps
        :return: the model's number
        :raises ValueError: if there is no spare model
        """
        *arrays, _ = self._recent.rows(self.train_freq, which)
        k = self.models.activate(self._transitions(arrays), steps, self.batch_size)
        self.log_belief[:, k] = self.models.log_prior()[k]
        self.log_belief -= np.log(np.exp(self.log_belief).sum(axis=1, keepdims=True))
        return k

    @staticmethod
    def _transitions(arrays: Sequence[np.ndarray]) -> Any:
        from sb3_moe_envs.belief import Transitions

        return Transitions(*arrays)

    # Evaluations and files.

    def _check_model(self, model: BaseAlgorithm) -> None:
        if (own := belief_of(model.get_env())) is not None:
            self.use_models_of(own)

    def use_models_of(self, other: "VecBelief") -> None:
        """Use the models of a training environment, without training them.

        :param other: its wrapper
        :raises ValueError: if this one has trained models of its own, or models of another kind
        """
        if other.models is self.models:
            return
        kinds = [wrapper.models.settings for wrapper in (other, self)]
        if self.models.num_updates or kinds[0] != kinds[1]:
            raise ValueError(
                f"an evaluation must use the belief of the model's environment, {kinds[0]}, got "
                f"{kinds[1]} with {self.models.num_updates} updates of its own: wrap it with the "
                "same arguments and don't train it, or use make_pinned_env(model.get_env())"
            )
        self.training = False
        self.use(other.models)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the models to an NPZ file, which :class:`sb3_moe_envs.Belief` reads too.

        :param path: the file; a name without an ending gets ``.npz``
        """
        from sb3_moe_envs.belief import write_belief

        write_belief(path, self.models, self.numbers)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        venv: VecEnv,
        *,
        encode: Callable[[Any], Any] | None = None,
        **learning: Any,
    ) -> "VecBelief":
        """Wrap environments, with the models of a file; nothing in it is run.

        :param path: a file of :meth:`save`
        :param venv: environments with the same spaces
        :param encode: the function that the saved wrapper had, if it had one
        :param learning: ``training`` and what follows it, as in the constructor
        :raises ValueError: if the spaces differ
        """
        from sb3_moe_envs.belief import read_belief

        models, _ = read_belief(path)
        wrapper = cls(venv, encode=encode, **learning)
        wrapper.take(models)
        return wrapper

    def take(self, models: Any) -> None:
        """Use models of a file.

        :raises ValueError: if they are for other spaces
        """
        dims = [
            {name: each.settings[name] for name in ("obs_dim", "action_dim")}
            for each in (models, self.models)
        ]
        if dims[0] != dims[1]:
            raise ValueError(f"the models are for {dims[0]}, and the environment has {dims[1]}")
        self.use(models)


class _Recent:
    """The latest steps of all environments: arrays of some kinds, each (n, ...).

    :param num_rows: how many steps
    """

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._arrays: list[np.ndarray] = []
        self._added = 0

    def add(self, *arrays: np.ndarray) -> None:
        """Add a step."""
        if not self._arrays:
            self._arrays = [np.zeros((self._num_rows, *array.shape)) for array in arrays]
        for kept, array in zip(self._arrays, arrays, strict=True):
            kept[self._added % self._num_rows] = array
        self._added += 1

    def rows(self, last: int | None = None, which: Any = slice(None)) -> Iterator[np.ndarray]:
        """Yield each kind of array, with one row for each step of each environment.

        :param last: how many of the latest steps; None: all that there are
        :param which: environments
        """
        count = min(last or self._num_rows, self._added)
        steps = np.arange(self._added - count, self._added) % self._num_rows
        for kept in self._arrays:
            chosen = kept[steps][:, which]
            yield chosen.reshape(-1, chosen.shape[-1])


def belief_of(env: VecEnv | None) -> VecBelief | None:
    """Return the VecBelief among an environment's wrappers; None if there is none."""
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecBelief):
            return env
        env = env.venv
    return None
