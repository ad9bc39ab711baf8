"""Packages that only parts of this one need, and the extra of sb3-moe that installs each."""

from importlib.util import find_spec

#: The extra for each module. :mod:`sb3_moe_envs.checks` has those for the environments.
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

    :param part: what needs the modules, as the reader of the error knows it
    :param modules: names of modules, each in :data:`EXTRAS`
    :raises ImportError: if one is missing; it names the missing modules and their extras
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        extras = ",".join(dict.fromkeys(EXTRAS[module] for module in missing))
        raise ImportError(f"{part} needs {', '.join(missing)}: pip install 'sb3-moe[{extras}]'")
