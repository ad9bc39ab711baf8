"""MoE policies for sb3-contrib: the only code that imports it."""

from sb3_moe.layers.extras import require

require("sb3_moe.policies.contrib", "sb3_contrib")
