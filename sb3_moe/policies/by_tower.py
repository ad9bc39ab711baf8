"""One value for all towers, or one for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sb3_moe.policies.options import DEFAULTS, MoEOptions

# Options of which a single value is for the first tower alone: the actor, where there is one.
OF_THE_FIRST = ("spectral_coef", "ent_coef_per_task")
# Options that hold a dict of arguments, which is for all towers unless its keys are towers.
KWARGS = ("router_kwargs", "expert_kwargs")


def per_tower(options: Mapping[str, Any], towers: Sequence[str]) -> dict[str, MoEOptions]:
    """Check the options and give each tower its own.

    :param options: by name; each a value for all towers or a dict from tower to value
    :param towers: names of the towers, such as ``("pi", "vf")``
    :return: the options of each tower
    :raises TypeError: if an option is unknown
    :raises ValueError: if a dict names another tower, or a value is not valid
    """
    for name, value in options.items():
        if name not in DEFAULTS:
            raise TypeError(f"unknown option {name!r}; the options are {sorted(DEFAULTS)}")
        if isinstance(value, Mapping) and not is_by_tower(name, value, towers):
            if name in KWARGS:
                continue
            raise ValueError(f"`{name}` may name the towers {list(towers)}, got {list(value)}")
    return {
        tower: MoEOptions(**{n: _of_tower(n, v, tower, towers) for n, v in options.items()})
        for tower in towers
    }


def is_by_tower(name: str, value: Mapping[str, Any], towers: Sequence[str]) -> bool:
    """Say whether an option's dict has a value for each tower that it names.

    :param name: of the option
    :param value: the dict
    :param towers: names of the towers
    """
    return set(value) <= set(towers) and not (name in KWARGS and not value)


def _of_tower(name: str, value: Any, tower: str, towers: Sequence[str]) -> Any:
    if isinstance(value, Mapping) and is_by_tower(name, value, towers):
        return value.get(tower, DEFAULTS[name])
    return DEFAULTS[name] if name in OF_THE_FIRST and tower != towers[0] else value
