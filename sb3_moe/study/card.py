"""``sb3-moe card``: a folder for the Hugging Face Hub, of an agent in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from sb3_moe.extras import require
from sb3_moe.hub import push, write_folder
from sb3_moe.hub.folder import check_folder
from sb3_moe.study.agent import AgentOptions, opened
from sb3_moe.study.exit_status import exit_status


@dataclass(frozen=True)
class Card:
    """Write model, card, config, results and replay into a folder, and upload it if asked to."""

    agent: tyro.conf.OmitArgPrefixes[AgentOptions]
    out: Path = Path("hub")
    """The folder."""
    episodes: int = 10
    """Of each task, for the results."""
    max_steps: int = 1000
    """Of each task, in the replay."""
    seed: int = 0
    """Of the environments and the actions."""
    stochastic: bool = False
    """Draw actions instead of taking the most likely ones."""
    license: str = "mit"
    """Of the agent, as the Hub calls it."""
    push: str | None = None
    """Upload the folder to this repository of the Hub, such as user/name."""
    private: bool = False
    """Let a new repository be yours alone."""


def main(arguments: Sequence[str] | None = None, prog: str = "sb3-moe card") -> int:
    """Run the command; give its exit status.

    :param arguments: without the program's name; None for this process's
    :param prog: how the help calls the program
    """
    options = tyro.cli(Card, prog=prog, args=arguments)
    return exit_status(lambda: _card(options))


def _card(options: Card) -> int:
    if options.push is not None:
        require("--push", "huggingface_hub")
    check_folder(options.out, "--out")
    folder = write_folder(
        opened(options.agent),
        options.out,
        episodes=options.episodes,
        seed=options.seed,
        deterministic=not options.stochastic,
        max_steps=options.max_steps,
        license=options.license,
        repo_id=options.push,
    )
    print(f"wrote {folder / 'README.md'}, and what it shows beside it")
    if options.push is not None:
        print(f"uploaded to {push(folder, options.push, private=options.private)}")
    return 0
