"""Pictures of a run, from its folder: one function each, returning a matplotlib figure."""

# ruff: noqa: E402  what is missing is said before it is imported

from sb3_moe.extras import require

require("sb3_moe.plots", "matplotlib")

from sb3_moe.plots.against import Point, draw_against
from sb3_moe.plots.inside import (
    draw_dormant,
    draw_gates,
    draw_gates_over_time,
    draw_last_gates,
    load_diagnostics,
)
from sb3_moe.plots.routing import draw_routing
from sb3_moe.plots.save import save_figure, save_figures
from sb3_moe.plots.scores import (
    draw_forgetting,
    draw_learning_curves,
    draw_performance_profile,
    draw_transfer,
)

__all__ = [
    "Point",
    "draw_against",
    "draw_dormant",
    "draw_forgetting",
    "draw_gates",
    "draw_gates_over_time",
    "draw_last_gates",
    "draw_learning_curves",
    "draw_performance_profile",
    "draw_routing",
    "draw_transfer",
    "load_diagnostics",
    "save_figure",
    "save_figures",
]
