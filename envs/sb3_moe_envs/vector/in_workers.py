"""A task's copies in processes that step other tasks' copies too."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space

from sb3_moe_envs.masks import has_masks, stacked
from sb3_moe_envs.meanings import meanings_of
from sb3_moe_envs.vector.batches import join_batches, take_rows_of
from sb3_moe_envs.vector.copies import Copies, restore_states, states_of
from sb3_moe_envs.vector.infos import join_final, join_infos
from sb3_moe_envs.vector.workers import Ticket, Workers


class WorkersVectorEnv(VectorEnv[Any, Any, Any]):
    """Copies of one task, side by side in the processes of :class:`Workers`.

    The processes close what they hold, so closing this does nothing.

    :param workers: whose `make` gives `Copies`
    :param task: the task's index
    :param num_envs: number of copies
    """

    def __init__(self, workers: Workers, task: int, num_envs: int) -> None:
        self._workers, self.num_envs = workers, num_envs
        self._chunks = workers.deal(task, num_envs)
        sizes = [size for _, (_, size, _) in self._chunks]
        ends = itertools.accumulate(sizes)
        self._rows = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self.metadata, self.render_mode, self.single_observation_space, self.single_action_space = (
            self._of_each(_describe)[0]
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._tickets: list[Ticket] = []

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Any = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every copy.

        :param seed: of the first copy, one more for each next one; or one for each
        """
        if seed is None or isinstance(seed, int):
            seed = [None if seed is None else seed + index for index in range(self.num_envs)]
        seeds = [list(seed[rows]) for rows in self._rows]
        results = self._wait(self._ask(_reset, seeds, [options] * len(seeds)))
        return self._join([obs for obs, _ in results]), self._join_infos([i for _, i in results])

    def step_async(self, actions: Any) -> None:
        """Begin a step."""
        parts = [take_rows_of(self.single_action_space, actions, rows) for rows in self._rows]
        self._tickets = self._ask(Copies.step, parts)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Wait for the step that has begun."""
        results = self._wait(self._tickets)
        if len(results) == 1:
            alone: tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]] = results[0]
            return alone
        obs, rewards, terminated, truncated, infos = zip(*results, strict=True)
        flags = (np.concatenate(each) for each in (rewards, terminated, truncated))
        return self._join(obs), *flags, self._join_infos(infos)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every copy with its action."""
        self.step_async(actions)
        return self.step_wait()

    def render(self) -> tuple[Any, ...]:
        """Return a picture of each copy."""
        return tuple(itertools.chain(*self._of_each(Copies.render)))

    def call(self, name: str, *args: Any) -> tuple[Any, ...]:
        """Call a method of each copy, or read an attribute."""
        return tuple(itertools.chain(*self._of_each(Copies.call, name, *args)))

    @property
    def get_action_meanings(self) -> Callable[[], list[str]]:
        """What names the choices; there only if the copies have such a method."""
        names: list[str] | None = self._of_each(meanings_of)[0]
        if names is None:
            raise AttributeError(f"the copies of {self} have no method `get_action_meanings`")
        return lambda: names

    @property
    def action_masks(self) -> Callable[[], np.ndarray]:
        """What gives a row of masks for each copy; there only if the copies have such a method."""
        if not all(self._of_each(_have_masks)):
            raise AttributeError(f"the copies of {self} have no method `action_masks`")
        return self._masks

    def _masks(self) -> np.ndarray:
        return np.concatenate(self._of_each(stacked))

    def state_dict(self) -> list[Any] | None:
        """Return the copies' states; None if one has none to give."""
        states = list(itertools.chain(*self._of_each(states_of)))
        return None if any(state is None for state in states) else states

    def load_state_dict(self, states: list[Any]) -> None:
        """Go on from states, which as many copies in one process may have given too."""
        self._wait(self._ask(restore_states, [states[rows] for rows in self._rows]))

    def _of_each(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        return self._wait(self._ask(function, *([arg] * len(self._chunks) for arg in args)))

    def _ask(self, function: Callable[..., Any], *args: Sequence[Any]) -> list[Ticket]:
        """Ask every process, each with its own of the arguments."""
        return [
            player.ask(key, function, *(arg[place] for arg in args))
            for place, (player, key) in enumerate(self._chunks)
        ]

    def _wait(self, tickets: Sequence[Ticket]) -> list[Any]:
        return [self._workers.answer(ticket) for ticket in tickets]

    def _join(self, batches: Sequence[Any]) -> Any:
        return join_batches(self.single_observation_space, batches)

    def _join_infos(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        parts = list(zip(self._rows, infos, strict=True))
        return join_infos(parts, self.num_envs) | join_final(parts, self.num_envs)


def _describe(copies: Copies) -> tuple[Any, ...]:
    return (
        copies.metadata,
        copies.render_mode,
        copies.single_observation_space,
        copies.single_action_space,
    )


def _have_masks(copies: Copies) -> bool:
    return all(map(has_masks, copies.envs))


def _reset(copies: Copies, seeds: list[int | None], options: Any) -> Any:
    return copies.reset(seed=seeds, options=options)
