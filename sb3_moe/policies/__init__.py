"""MoE policy classes, one module per family of algorithms."""
