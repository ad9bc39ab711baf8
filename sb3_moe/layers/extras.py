"""Packages that only parts of this one need, and the extra that brings each."""

from importlib.util import find_spec

#: Extra by module. :mod:`sb3_moe_envs.checks` has those of the environments.
EXTRAS = {
    "PIL": "cli",
    "docstring_parser": "cli",
    "filelock": "cli",
    "huggingface_hub": "hub",
    "imageio_ffmpeg": "video",
    "jinja2": "cli",
    "matplotlib": "cli",
    "optuna": "zoo",
    "pandas": "cli",
    "pydantic": "cli",
    "ray": "study",
    "rich": "cli",
    "rl_zoo3": "zoo",
    "sb3_contrib": "contrib",
    "scipy": "cli",
    "submitit": "slurm",
    "tensorboard": "cli",
    "tyro": "cli",
    "yaml": "cli",
}


def require(part: str, *modules: str) -> None:
    """Raise, in one line, unless the modules that a part imports are installed.

    :param part: as the reader of the error knows it
    :param modules: among :data:`EXTRAS`
    :raises ImportError: naming what is missing, and the extra that brings it
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        extras = ",".join(dict.fromkeys(EXTRAS[module] for module in missing))
        raise ImportError(f"{part} needs {', '.join(missing)}: pip install 'sb3-moe[{extras}]'")
