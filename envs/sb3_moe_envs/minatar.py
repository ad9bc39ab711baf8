"""MinAtar's five games, from gymnax: one environment, or many in one compiled step."""

from __future__ import annotations

from typing import Any

from sb3_moe_envs.vector.batched import SingleEnv
from sb3_moe_envs.vector.gymnax import GymnaxVectorEnv

ACTIONS = ("nothing", "left", "up", "right", "down", "fire")
GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")
#: most no-ops at the start of an episode, as Atari's
NO_OP_MAX = 30


class MinAtarVectorEnv(GymnaxVectorEnv):
    """Environments of one MinAtar game that step together.

    :param game: one of :data:`GAMES`
    :param num_envs: how many, at least 1
    :param no_op_max: most no-ops at the start of an episode; with 0, all episodes of SpaceInvaders
        begin alike
    :param kwargs: as of :class:`~sb3_moe_envs.vector.gymnax.GymnaxVectorEnv`
    :raises ValueError: if the game is unknown
    """

    def __init__(
        self, game: str, num_envs: int = 1, *, no_op_max: int = NO_OP_MAX, **kwargs: Any
    ) -> None:
        if game not in GAMES:
            raise ValueError(f"`game` must be one of {GAMES}, got {game!r}")
        self.game = game
        super().__init__(f"{game}-MinAtar", num_envs, no_op_max=no_op_max, **kwargs)

    def get_action_meanings(self) -> list[str]:
        """Name the actions."""
        return [ACTIONS[action] for action in self._program.actions]


class MinAtarEnv(SingleEnv):
    """One MinAtar game; an observation is (10, 10, channels) zeros and ones, uint8.

    Actions are those of :data:`ACTIONS`.

    :param game: one of :data:`GAMES`
    :param render_mode: None or ``"rgb_array"``
    :param kwargs: as of :class:`MinAtarVectorEnv`
    :raises ValueError: if an argument is unknown
    """

    def __init__(self, game: str, render_mode: str | None = None, **kwargs: Any) -> None:
        self.game = game
        super().__init__(MinAtarVectorEnv(game, render_mode=render_mode, **kwargs))
