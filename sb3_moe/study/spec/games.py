"""Games by name: MinAtar's five by their short names, anything else by its Gymnasium id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MINATAR = ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")


def game_id(game: str) -> str:
    """Give the Gymnasium id of a game."""
    return f"SB3MoE/MinAtar-{game}-v1" if game in MINATAR else game


def check_games(games: Sequence[str]) -> None:
    """Raise unless every game is known, and none is named twice.

    :raises ValueError: naming the game and what there is
    """
    import gymnasium as gym

    import sb3_moe_envs  # noqa: F401  registers the ids

    if not games:
        raise ValueError("`games` must name at least one game, got none")
    for game in games:
        if game_id(game) not in gym.registry:
            raise ValueError(
                f"`games` must be among {', '.join(MINATAR)} or a registered Gymnasium id, "
                f"got {game!r}"
            )
    if len(set(games)) < len(games):
        raise ValueError(f"`games` must be different from each other, got {list(games)}")


def games_as_tasks(games: Sequence[str], no_op_max: int = 0) -> list[Any]:
    """Give the tasks that games stand for, under the names that the file gives them.

    :param no_op_max: most no-ops at the start of an episode of MinAtar's games by short names
    """
    from sb3_moe_envs.tasks import Task

    return [
        Task(game, game_id(game), {"no_op_max": no_op_max} if game in MINATAR else {})
        for game in games
    ]
