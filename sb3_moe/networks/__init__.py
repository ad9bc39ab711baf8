"""Where a policy keeps its networks: one class for each family of policies, SB3's own included.

Whoever measures, counts, treats or watches a policy asks ``networks_of(policy)`` and looks into no
policy itself. A family of a user's own is entered with ``register_networks``.
"""

from sb3_moe.networks.base import Network, Networks, kind_of, tower_of, uncompiled
from sb3_moe.networks.families import networks_of, register_networks

__all__ = [
    "Network",
    "Networks",
    "kind_of",
    "networks_of",
    "register_networks",
    "tower_of",
    "uncompiled",
]
