"""What TRPO can't have: it takes its steps without ``backward`` and without the optimiser."""

from __future__ import annotations

from stable_baselines3.common.base_class import BaseAlgorithm


def refuse_trpo(model: BaseAlgorithm, of: str, cure: str = "use PPO") -> None:
    """Raise if a model is of TRPO.

    :param model: of any algorithm
    :param of: who can't work with it
    :param cure: what to do
    :raises ValueError: naming both
    """
    # By name: sb3_contrib need not be installed.
    if any(each.__name__ == "TRPO" for each in type(model).__mro__):
        raise ValueError(
            f"{of} can't be used with TRPO, which differentiates every weight of its actor and "
            f"steps without the optimiser; {cure}"
        )
