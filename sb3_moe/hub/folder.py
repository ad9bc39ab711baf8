"""Write the folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_moe.hub.card import card, metadata
from sb3_moe.hub.pushing import check_repo_id
from sb3_moe.hub.results import Results, play
from sb3_moe.is_model import model_of_sb3
from sb3_moe.layers.checks import whole, words, yes_or_no
from sb3_moe.measures import Budget, measure
from sb3_moe.policies.moe_policy import MoEPolicy
from sb3_moe.policies.options import DEFAULTS
from sb3_moe.saving.container import write_file
from sb3_moe.saving.files import atomic, check_writable, not_writable
from sb3_moe.saving.model_file import own_classes, packed, versions
from sb3_moe.saving.normalizer import is_known
from sb3_moe.vec_env.make import normalises_observations
from sb3_moe.watching import Replay, watch

README, MODEL, CONFIG = "README.md", "model.moe", "config.json"
RESULTS, REPLAY = "results.json", "replay.html"
# What a film is written to, and where no encoder is installed.
FILMS = ("replay.mp4", "replay.gif")
#: All that a card writes over, or deletes where it has none.
WRITTEN = (README, MODEL, CONFIG, RESULTS, REPLAY, *FILMS)

# Half a minute of film for each task.
MOST_FILMED = 300


def write_folder(
    model: BaseAlgorithm,
    folder: str | Path,
    env: gym.Env[Any, Any] | VecEnv | str | None = None,
    *,
    episodes: int = 10,
    seed: int = 0,
    deterministic: bool = True,
    max_steps: int = 1000,
    license: str = "mit",
    repo_id: str | None = None,
) -> Path:
    """Play every task, and write the model, its card, config, results and replay into a folder.

    Nothing is written before all was played. The model has the statistics by which its own
    environment is normalised, or where it has none, ``env``.

    :param model: of any algorithm, dense or with experts
    :param folder: is made if it isn't there; where an earlier card of any agent lies, it is
        replaced
    :param env: as of :func:`sb3_moe.watch`: None for one like the model's own
    :param episodes: of each task, for the results
    :param seed: of the environments and the actions
    :param deterministic: as in ``predict``
    :param max_steps: of each task, in the replay
    :param license: of the agent, as the Hub calls it
    :param repo_id: ``"user/name"`` on the Hub, for the card's first lines of code
    :return: the folder
    :raises TypeError: if ``model`` is no model or has a policy that is no network, such as ARS's,
        or another argument is of the wrong type
    :raises ValueError: if a number is below 1, ``folder`` is a file, can't be written or has files
        of other origin that would be replaced, something of the model can't be saved, or there is
        no environment that plays every task
    """
    model_of_sb3(model)
    whole("episodes", episodes)
    whole("max_steps", max_steps)
    yes_or_no("deterministic", deterministic)
    words("license", license)
    if repo_id is not None:
        check_repo_id(repo_id)
    budget = measure(model.policy)  # refuses a policy of which too little is known to watch it
    folder = Path(folder)
    check_folder(folder)
    normalizer = _normalizer(model, env)
    data, _ = packed(model, replay_buffer=False, normalizer=normalizer)
    results = play(model, env, episodes, seed, deterministic)
    replay = watch(model, env, max_steps=max_steps, seed=seed, deterministic=deterministic)
    config = config_of(model, results, budget, normalizer)
    head = metadata(config["algorithm"], _mixture(model), results, license)
    folder.mkdir(parents=True, exist_ok=True)
    # First, since by it the folder is known for a card's, should the rest be interrupted.
    _write_json(folder / CONFIG, config)
    replay.save(folder / REPLAY)
    _write_json(folder / RESULTS, results.to_json())
    names = [MODEL, CONFIG, RESULTS, REPLAY, *_film(replay, folder)]
    with atomic(folder / README) as temporary:
        temporary.write_text(card(config, results, head, names, repo_id), encoding="utf-8")
    write_file(folder / MODEL, data)
    return folder


def check_folder(folder: Path, argument: str = "folder") -> None:
    """Raise if a card would write over what is no earlier card's, or can't be written.

    :param folder: need not exist
    :param argument: what names it
    :raises ValueError: naming the folder, and a file that stands in the way, or what the system
        says
    """
    # A link that leads nowhere doesn't exist, and can't be made a folder either.
    if _stands(folder, argument) and not folder.is_dir():
        raise ValueError(f"`{argument}` must be a folder, got the file {folder}")
    is_a_cards = _is_a_cards(folder)
    for path in (folder / name for name in WRITTEN):
        if not _stands(path, argument):
            continue
        if not is_a_cards:
            raise ValueError(
                f"`{argument}` must be a folder of its own, or an earlier card's, got {folder}, "
                f"whose {path.name} would be lost"
            )
        # What a link leads to, as in the Hub's own cache, is somebody else's.
        if path.is_symlink() or not path.is_file():
            raise ValueError(
                f"`{argument}` must have plain files where a card has its own, got {folder}, whose "
                f"{path.name} is {_kind(path)}"
            )
    # What isn't there is made when there is something to write.
    nearest = next(each for each in (folder, *folder.parents) if _stands(each, argument))
    check_writable(nearest, argument)


def _stands(path: Path, argument: str) -> bool:
    """Say whether anything stands there, a link that leads nowhere too.

    :raises ValueError: naming it, if nothing of such a name can be
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # it is too long, or holds a zero
        raise not_writable(path, argument, error) from error
    return True


def _kind(path: Path) -> str:
    """Say what stands there in the place of a plain file."""
    if path.is_symlink():
        return "a link"
    return "a folder" if path.is_dir() else "no plain file"


def _is_a_cards(folder: Path) -> bool:
    """Say whether a folder is an earlier card's, by its config: a run's has other keys."""
    if not (folder / CONFIG).is_file():  # a pipe there would be read for ever
        return False
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and {"custom_objects", "cost", "description"} <= config.keys()


def _normalizer(model: BaseAlgorithm, env: Any) -> VecNormalize | None:
    """Return what normalises the model's observations, or those of ``env`` if it has no other.

    :raises ValueError: if its statistics can't be saved
    """
    own = model.get_env()
    name, source = ("env", env) if own is None else ("model", own)
    found = unwrap_vec_normalize(source) if isinstance(source, VecEnv) else None
    if found is None or is_known(found):
        return found
    if normalises_observations(found):
        raise ValueError(
            f"`{name}` must be normalised by VecNormalize or PerTaskVecNormalize, whose statistics "
            f"model.moe holds, got {type(found).__name__}"
        )
    return None


def config_of(
    model: BaseAlgorithm, results: Results, budget: Budget, normalizer: VecNormalize | None
) -> dict[str, Any]:
    """Return what an agent is made of, in plain values.

    :param model: the agent
    :param results: whose tasks are named
    :param budget: what its policy costs
    :param normalizer: of what it sees
    """
    total = budget.total
    return {
        "algorithm": type(model).__name__,
        "policy": type(model.policy).__name__,
        "options": _options(model),
        "custom_objects": [_place(name, each) for name, each in own_classes(model).items()],
        "normalised": normalises_observations(normalizer),
        "suite": results.suite,
        "tasks": results.task_names,
        "num_timesteps": model.num_timesteps,
        "seed": model.seed,
        "cost": {
            "parameters": total.parameters,
            "active": total.active,
            "flops_per_sample": total.flops,
        },
        "description": str(budget),
        "versions": versions(),
    }


def _place(name: str, own: Any) -> str:
    """Say where others import what is the user's own from: ``module:name``, or the name alone."""
    module = own.__module__
    if module == "__main__":  # a script's: others know its file
        main = sys.modules[module]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        module = spec.name if spec is not None else Path(file).stem if file else ""
    return f"{module}:{name}" if module and own.__qualname__ == name else name


def _options(model: BaseAlgorithm) -> dict[str, Any]:
    """Return the options of the mixture that are not the defaults."""
    if not isinstance(model.policy, MoEPolicy):
        return {}
    given = model.policy.moe_options.items()
    return {name: value for name, value in given if value != DEFAULTS[name]}


def _mixture(model: BaseAlgorithm) -> bool:
    return isinstance(model.policy, MoEPolicy) and bool(model.policy.moe_layers())


def _film(replay: Replay, folder: Path) -> list[str]:
    """Write a film where there are pictures and what draws them; give its name.

    One of another agent, or of another kind, doesn't stay beside it.
    """
    for old in FILMS:
        (folder / old).unlink(missing_ok=True)
    drawn = any(len(track.frames) for track in replay.runs[0].tracks)
    if not drawn or find_spec("PIL") is None:
        return []
    film, picture = FILMS
    name = picture if find_spec("imageio_ffmpeg") is None else film
    replay.to_video(folder / name, max_steps=MOST_FILMED)
    return [name]


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")
