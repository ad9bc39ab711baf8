"""MoE policies for sb3-contrib: the only code that imports it."""
