"""The card of an agent: a README whose first lines the Hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sb3_moe.hub.results import Results

LIBRARY = "stable-baselines3"
TAGS = ("deep-reinforcement-learning", "reinforcement-learning", LIBRARY, "sb3_moe")
MIXTURE = "mixture-of-experts"
FILES = {
    "model.moe": "weights, optimisers and arguments, safe to open",
    "config.json": "what the agent is made of and what wrote it, to read",
    "results.json": "the results above",
    "replay.html": "every task, played, with what each expert counts for",
    "replay.mp4": "the same as a film",
    "replay.gif": "the same as a film",
}


def metadata(algorithm: str, is_moe: bool, results: Results, license: str) -> dict[str, Any]:
    """Return what stands above a card, in the words of the Hub.

    :param algorithm: its name, such as ``"PPO"``
    :param is_moe: whether there are experts
    :param results: what was reached
    :param license: one of the Hub's
    """
    suite = [] if results.suite is None else [results.suite]
    tags = [*suite, *results.task_names, *TAGS, *([MIXTURE] if is_moe else [])]
    found = [
        _result(name, "/".join([*suite, name]), results.of_task(k))
        for k, name in enumerate(results.task_names)
    ]
    return {
        "library_name": LIBRARY,
        "license": license,
        "tags": list(dict.fromkeys(tags)),
        "model-index": [{"name": algorithm, "results": found}],
    }


def _result(task: str, kind: str, means: Mapping[str, float]) -> dict[str, Any]:
    value = f"{means['mean_reward']:.2f} +/- {means['std_reward']:.2f}"
    return {
        "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
        "dataset": {"name": task, "type": kind},
        "metrics": [
            {"type": "mean_reward", "value": value, "name": "mean_reward", "verified": False}
        ],
    }


def card(
    config: Mapping[str, Any],
    results: Results,
    head: Mapping[str, Any],
    files: Sequence[str],
    repo_id: str | None,
) -> str:
    """Return the card.

    :param config: of the agent, as in ``config.json``
    :param results: what was reached
    :param head: what :func:`metadata` gives
    :param files: of the folder
    :param repo_id: ``"user/name"`` on the Hub, if that is known
    """
    # JSON is YAML: any name is quoted as it must be, and no YAML library is needed.
    above = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    kind = "with a mixture of experts " if MIXTURE in head["tags"] else ""
    # A suite may have fifty tasks; the table below names them.
    titles = results.task_names if results.suite is None else [results.suite]
    played = ", ".join(f"**{_plain(name)}**" for name in titles)
    parts = [
        "\n".join(["---", *above, "---"]),
        f"# {config['algorithm']} {kind}playing {played}",
        "An agent of [Stable-Baselines3](https://github.com/DLR-RM/stable-baselines3), trained for "
        f"{config['num_timesteps']:,} steps and saved by sb3_moe {config['versions']['sb3_moe']}.",
        _film(files),
        f"## Use\n\n```python\n{_usage(repo_id, config)}\n```",
        f"## Results\n\n{_table(results)}",
        f"## Made of\n\n```text\n{config['description']}\n```",
        "## Files\n\n" + "\n".join(f"- `{name}`: {FILES[name]}" for name in files),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _film(files: Sequence[str]) -> str:
    return "![The agent plays](replay.gif)" if "replay.gif" in files else ""


def _usage(repo_id: str | None, config: Mapping[str, Any]) -> str:
    own = config.get("custom_objects", ())
    lines = ["import sb3_moe"]
    path = '"model.moe"'
    if repo_id:
        lines.insert(0, "from huggingface_hub import hf_hub_download")
        path = f'hf_hub_download("{repo_id}", "model.moe")'
    given = ""
    if config.get("normalised"):
        lines.append(
            "# Observations were normalised: `env`, of the same tasks, takes the statistics"
        )
        given = ", env"
    if own:
        parts = [each.rpartition(":") for each in own]
        lines += [
            f"from {module} import {name}" if module else f"# {name} is its maker's own"
            for module, _, name in parts
        ]
        given += ", custom_objects={" + ", ".join(f'"{n}": {n}' for _, _, n in parts) + "}"
    call = f"model = sb3_moe.load({path}{given})  # runs nothing from the file"
    return "\n".join([*lines, "", call])


def _table(results: Results) -> str:
    kind = "most likely" if results.deterministic else "drawn"
    lines = ["| task | mean return | standard deviation | mean length |", "|---|---|---|---|"]
    for k, name in enumerate(results.task_names):
        means = results.of_task(k)
        numbers = (means["mean_reward"], means["std_reward"], means["mean_ep_length"])
        lines.append(f"| {_plain(name)} | " + " | ".join(f"{each:.2f}" for each in numbers) + " |")
    episodes = results.played.returns.shape[1]
    return "\n".join(lines) + f"\n\n{episodes} episodes of each task, with {kind} actions."


def _plain(name: str) -> str:
    """Return a task's name without what Markdown would read into it."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in " ".join(name.split()))
