"""MinAtar's five games, from gymnax: one environment, or many copies in one compiled step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sb3_moe_envs.vector.gymnax import GymnaxVectorEnv
from sb3_moe_envs.vector.single import SingleCopyEnv

ACTIONS = ("nothing", "left", "up", "right", "down", "fire")
GAMES = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")


#: most no-ops at the start of an episode, as Atari's
NO_OP_MAX = 30


class MinAtarVectorEnv(GymnaxVectorEnv):
    """Copies of one MinAtar game that step together.

    :param game: one of :data:`GAMES`
    :param num_envs: how many copies, at least 1
    :param no_op_max: most no-ops at the start of an episode; 0, as in version 0.1: all episodes of
        SpaceInvaders begin alike
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
        """Name the choices."""
        return [ACTIONS[action] for action in self._program.actions]


class MinAtarEnv(SingleCopyEnv):
    """One MinAtar game; an observation is (10, 10, channels) zeros and ones, uint8.

    Actions are those of :data:`ACTIONS`.

    :param game: one of :data:`GAMES`
    :param render_mode: None or ``"rgb_array"``
    :param use_minimal_action_set: the game's own actions in place of all six
    :param params: gymnax parameters to change, such as ``{"max_steps_in_episode": 500}``
    :param no_op_max: as of :class:`MinAtarVectorEnv`
    :raises ValueError: if an argument is unknown
    """

    def __init__(
        self,
        game: str,
        render_mode: str | None = None,
        use_minimal_action_set: bool = False,
        params: Mapping[str, Any] | None = None,
        no_op_max: int = NO_OP_MAX,
    ) -> None:
        self.game = game
        world = MinAtarVectorEnv(
            game,
            render_mode=render_mode,
            use_minimal_action_set=use_minimal_action_set,
            params=params,
            no_op_max=no_op_max,
        )
        super().__init__(world)

    def get_action_meanings(self) -> list[str]:
        """Name the choices."""
        names: list[str] = self._world.get_action_meanings()
        return names
