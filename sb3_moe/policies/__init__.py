"""MoE policies: one module per family of algorithms, and what they are built from.

From options to actions: ``options`` (what is asked for) -> ``moe_policy`` (what all policies share)
-> ``on_policy``, ``dqn``, ``sac``, ... (SB3's classes with experts) -> ``architect`` (builds, from
``dense_layers`` and ``expert_layers``) -> ``moe_network`` (runs) -> ``sb3_moe.layers`` (route, and
run the experts). ``networks`` finds the networks of any finished policy.
"""

from typing import NoReturn


def __getattr__(name: str) -> NoReturn:
    """Raise an error that names the modules which have policies of the given name."""
    from sb3_moe.policies.registration import TABLE

    places: dict[str, list[str]] = {}
    for algorithm, entry in TABLE.items():
        if name in entry.aliases:
            places.setdefault(entry.policies, []).append(algorithm)
    if not places:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    listed = ", ".join(f"{place} ({', '.join(used)})" for place, used in places.items())
    # An AttributeError's text would be lost in `from sb3_moe.policies import ...`.
    raise ImportError(
        f"cannot import name {name!r} from {__name__!r}: each algorithm has its own, in {listed}"
    )
