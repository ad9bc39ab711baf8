"""Which observations a normaliser can be given."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_moe.observations.task_ids import TASK_KEY


def refuse_whole_numbers(normalizer: VecNormalize) -> None:
    """Raise if a normaliser's observations are stored as whole numbers, which cuts them off.

    :raises ValueError: naming the space
    """
    if not normalizer.norm_obs:
        return
    space = normalizer.observation_space
    named = (
        {f"{key!r} of them": space[key] for key in normalizer.norm_obs_keys or ()}
        if isinstance(space, spaces.Dict)
        else {"their space": space}
    )
    # SB3 has made pictures of 0 to 255 a space of floats already.
    for what, box in named.items():
        if not np.issubdtype(box.dtype, np.floating):
            raise ValueError(
                "`norm_obs` must be False for observations of whole numbers, as which buffers "
                f"would store them: {what} is {box}; or leave it out of `norm_obs_keys`"
            )


def box_keys(space: spaces.Dict) -> list[str]:
    """List the keys that can be normalised: numbers, and not the id."""
    return [
        key
        for key, entry in space.spaces.items()
        if key != TASK_KEY and isinstance(entry, spaces.Box)
    ]
