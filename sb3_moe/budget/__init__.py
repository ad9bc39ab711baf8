"""What a policy costs: parameters, active parameters, FLOPs, and the dense network that matches.

A fair comparison needs a dense network of the same parameters and one of the same FLOPs.
"""

from sb3_moe.budget.controls import controls
from sb3_moe.budget.cost import Budget, Cost, describe, measure
from sb3_moe.budget.matching import matching_net_arch

__all__ = ["Budget", "Cost", "controls", "describe", "matching_net_arch", "measure"]
