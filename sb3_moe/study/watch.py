"""``sb3-moe watch``: a page on which an agent of a file plays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

import sb3_moe
from sb3_moe.extras import require
from sb3_moe.saving.files import check_writable
from sb3_moe.study.agent import AgentOptions, opened
from sb3_moe.study.exit_status import exit_status
from sb3_moe.watching.importance import check_importance, expert_importance
from sb3_moe.watching.record import expert_named
from sb3_moe.watching.replay import steps_of


@dataclass(frozen=True)
class Watch:
    """Play every task and write a page with pictures, gates, values and rewards."""

    agent: tyro.conf.OmitArgPrefixes[AgentOptions]
    episodes: int = 1
    """Of each task."""
    without: tuple[str, ...] = ()
    """Experts to play without, side by side, such as pi:2."""
    table: int = 0
    """Episodes of each task for a table of returns with each expert off; 0 for none."""
    max_steps: int = 1000
    """Of each task."""
    seed: int = 0
    """Of the environments and the actions."""
    stochastic: bool = False
    """Draw actions instead of taking the most likely ones."""
    out: Path = Path("replay.html")
    """The page, or a film where it ends in .gif or .mp4."""


def main(arguments: Sequence[str] | None = None, prog: str = "sb3-moe watch") -> int:
    """Run the command; give its exit status.

    :param arguments: without the program's name; None for this process's
    :param prog: how the help calls the program
    """
    options = tyro.cli(Watch, prog=prog, args=arguments)
    return exit_status(lambda: _watch(options))


def _watch(options: Watch) -> int:
    if options.out.suffix not in (".html", ".gif", ".mp4") or options.out.is_dir():
        raise ValueError(
            f"`--out` must be a file that ends in .html, .gif or .mp4, got {options.out}"
        )
    if options.out.suffix != ".html":
        _check_film(options)
    for each in options.without:
        expert_named(each)
    # What is wrong shows before anything is played.
    check_writable(options.out.parent)
    model = opened(options.agent)
    if options.table:
        check_importance(model, None, options.table)
    replay = sb3_moe.watch(
        model,
        episodes=options.episodes,
        without=options.without,
        max_steps=options.max_steps,
        seed=options.seed,
        deterministic=not options.stochastic,
    )
    if options.table:
        replay.importance = expert_importance(
            model,
            episodes=options.table,
            seed=options.seed,
            deterministic=not options.stochastic,
        )
    is_page = options.out.suffix == ".html"
    written = replay.save(options.out) if is_page else replay.to_video(options.out)
    print(f"{steps_of(replay.runs):,} steps in {written}")
    return 0


def _check_film(options: Watch) -> None:
    """Raise if a film can't be written, or wouldn't show what is asked for.

    :raises ValueError: naming the option
    :raises ImportError: naming the extra
    """
    for name, given in (("--without", options.without), ("--table", options.table)):
        if given:
            raise ValueError(
                f"`{name}` must be left out where `--out` is a film, which shows the agent as it "
                f"is: got {given} and {options.out.name}"
            )
    require("films", "PIL")
    if options.out.suffix == ".mp4":
        require("an MP4", "imageio_ffmpeg")
