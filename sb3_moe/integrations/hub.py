"""A trained agent as a folder for the Hugging Face Hub: model, card, results and replay.

Shapes: N tasks, n episodes of each.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_moe.layers.extras import require
from sb3_moe.measures import measure
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import DEFAULTS
from sb3_moe.saving.files import atomic, check_writable, write_file, write_json
from sb3_moe.saving.model_file import packed, versions
from sb3_moe.vec_env.evaluating import evaluate_tasks, success_rate
from sb3_moe.vec_env.tasks import has_tasks, suite_of
from sb3_moe.watching import Replay, watch
from sb3_moe.watching.watched_env import WatchedEnv, seed_everything, watched_env

__all__ = ["write_folder"]

LIBRARY = "stable-baselines3"
README = "README.md"
CONFIG = "config.json"
RESULTS = "results.json"
#: Files of a card's folder: a new card replaces them, and deletes an earlier card's film.
FILES = (README, "model.moe", CONFIG, RESULTS, "replay.html", "replay.mp4", "replay.gif")
# Most steps of each task in the film: half a minute at 10 a second.
MOST_FILMED = 300


def write_folder(
    model: BaseAlgorithm,
    folder: str | Path,
    env: GymEnv | str | None = None,
    *,
    episodes: int = 10,
    seed: int = 0,
    deterministic: bool = True,
    max_steps: int = 1000,
    license: str = "mit",
    repo_id: str | None = None,
) -> Path:
    """Play every task, and write the model, its card, config, results and replay into a folder.

    No file is written before everything is played. The model's file has the statistics by which
    its own environment is normalized, or ``env`` if the model has no environment.

    :param model: of any algorithm, dense or with experts
    :param folder: is made if it doesn't exist; an earlier card in it is replaced
    :param env: as in :func:`sb3_moe.watch`: None for one like the model's own
    :param episodes: of each task, for the results
    :param seed: of the environments and the actions
    :param deterministic: as in ``predict``
    :param max_steps: of each task, in the replay
    :param license: of the agent, by its name on the Hub
    :param repo_id: ``"user/name"`` on the Hub, for the card's first lines of code
    :return: the folder
    :raises ImportError: without the extra ``hub``
    :raises TypeError: if ``model`` has a policy that is no network, such as ARS's
    :raises ValueError: if a number is below 1, ``folder`` can't be written or has files that would
        be replaced and are no earlier card's, a part of the model can't be saved, or there is no
        environment that plays every task
    """
    require("an agent's card", "huggingface_hub", "jinja2")
    folder = Path(folder)
    check_folder(folder)
    source = model.get_env() or env
    normalizer = unwrap_vec_normalize(source) if isinstance(source, VecEnv) else None
    data, own = packed(model, normalizer)
    config = _config(model, sorted(own))
    playing: dict[str, Any] = {"seed": seed, "deterministic": deterministic}
    results = _results(model, env, episodes, **playing)
    replay = watch(model, env, max_steps=max_steps, **playing)
    # First the results: they mark the folder as a card's, even if the rest is interrupted.
    write_json(folder / RESULTS, results)
    write_json(folder / CONFIG, config)
    write_file(folder / "model.moe", data)
    replay.save(folder / "replay.html")
    _film(replay, folder)
    _write_card(folder, config, results, license, repo_id)
    return folder


def check_folder(folder: Path) -> None:
    """Make a folder, and raise if a card would overwrite files that are no earlier card's.

    :param folder: need not exist
    :raises ValueError: naming the folder, and a file that would be lost, or the system's error
    """
    check_writable(folder, "folder")
    taken = [name for name in FILES if (folder / name).exists()]
    if taken and RESULTS not in taken:
        raise ValueError(
            f"`folder` must be empty, or hold an earlier card, got {folder}, whose {taken[0]} "
            "would be lost"
        )


def _config(model: BaseAlgorithm, custom_objects: list[str]) -> dict[str, Any]:
    """Return an agent's algorithm, policy, options and cost, in plain values.

    :param model: the agent
    :param custom_objects: names of the classes and functions that ``load`` must be given
    """
    policy = model.policy
    budget = measure(model.policy)
    options = policy.moe_options if isinstance(policy, MoEPolicy) else {}
    return {
        "algorithm": type(model).__name__,
        "policy": type(policy).__name__,
        "options": {k: str(v) for k, v in options.items() if v != DEFAULTS[k]},
        "custom_objects": custom_objects,
        "num_timesteps": model.num_timesteps,
        "seed": model.seed,
        "cost": {
            "parameters": budget.total.parameters,
            "active": budget.total.active,
            "flops_per_sample": budget.total.flops,
        },
        "description": str(budget),
        "mixture": isinstance(policy, MoEPolicy) and bool(policy.moe_layers()),
        "versions": versions(),
    }


def _results(
    model: BaseAlgorithm, env: Any, episodes: int, seed: int, deterministic: bool
) -> dict[str, Any]:
    """Play every task, and return the means under :mod:`huggingface_sb3`'s names."""
    with watched_env(model, env, False, episodes) as watched:
        seed_everything(model, watched.env, seed)
        played = evaluate_tasks(model, watched.env, episodes, deterministic)
        suite = suite_of(watched.env)
        names = _names(watched)
    tasks = {}
    for name, returns_n, lengths_n, successes_n in zip(names, *played, strict=True):
        means = {
            "mean_reward": float(returns_n.mean()),
            "std_reward": float(returns_n.std()),
            "mean_ep_length": float(lengths_n.mean()),
            "success_rate": success_rate(successes_n),  # NaN if a task doesn't report it
        }
        tasks[name] = {key: value for key, value in means.items() if np.isfinite(value)}
    return {
        "mean_reward": float(played.returns.mean()),
        "std_reward": float(played.returns.std()),
        "is_deterministic": deterministic,
        "n_eval_episodes": episodes,
        "eval_datetime": datetime.now(UTC).isoformat(timespec="seconds"),
        "suite": suite,
        "tasks": tasks,
    }


def _names(watched: WatchedEnv) -> list[str]:
    """Return the tasks' names; for an environment without tasks, its id."""
    if has_tasks(watched.env) or not watched.env.has_attr("spec"):
        return watched.names
    spec = watched.env.get_attr("spec")[0]
    return watched.names if spec is None else [spec.id]


def _film(replay: Replay, folder: Path) -> None:
    """Delete an earlier film, and write one if there are images and the packages for it."""
    for name in ("replay.mp4", "replay.gif"):
        (folder / name).unlink(missing_ok=True)
    if find_spec("PIL") and any(track.frames for track in replay.runs[0].tracks):
        kind = "mp4" if find_spec("imageio_ffmpeg") else "gif"
        replay.to_video(folder / f"replay.{kind}", max_steps=MOST_FILMED)


def _write_card(
    folder: Path,
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    license: str,
    repo_id: str | None,
) -> None:
    """Write the card: a README whose first lines the Hub reads."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    suite = [results["suite"]] if results["suite"] else []
    tags = [*suite, *results["tasks"], "deep-reinforcement-learning", "reinforcement-learning"]
    tags += [LIBRARY, "sb3_moe", *(["mixture-of-experts"] if config["mixture"] else [])]
    data = ModelCardData(
        library_name=LIBRARY,
        license=license,
        tags=list(dict.fromkeys(tags)),
        model_name=config["algorithm"],
        eval_results=[
            EvalResult(
                task_type="reinforcement-learning",
                task_name="reinforcement-learning",
                dataset_type="/".join([*suite, name]),
                dataset_name=name,
                metric_type="mean_reward",
                metric_name="mean_reward",
                metric_value=f"{means['mean_reward']:.2f} +/- {means['std_reward']:.2f}",
            )
            for name, means in results["tasks"].items()
        ],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_name("card.md.j2")),
        config=config,
        results=results,
        # Not each task of a suite: there may be fifty, which the table names.
        played=", ".join(f"**{_plain(name)}**" for name in suite or results["tasks"]),
        repo_id=repo_id,
        has_film=(folder / "replay.gif").exists(),
        plain=_plain,
    )
    with atomic(folder / README) as temporary:
        card.save(temporary)


def _plain(name: str) -> str:
    """Return a task's name in one line, with Markdown's special characters escaped."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(name.split()))
