"""Code of the README and of pages, made to train for moments."""

import re

TINY = [
    (r"learn\(\d[\d_]{4,}", "learn(600"),
    (r"n_envs=64", "n_envs=8"),
    (r"steps_per_task=\d[\d_]{4,}", "steps_per_task=1024"),
    (r"watch\(model\)", "watch(model, max_steps=20)"),
    (r"n_eval_episodes=\d+", "n_eval_episodes=1"),
    (r"evaluate_tasks\(model, (make_pinned_env\([^)]*\))\)", r"evaluate_tasks(model, \1, 1)"),
    (r"every=\d[\d_]{4,}", "every=600, n_eval_episodes=1"),
]


def with_tiny_budgets(code):
    """Cut the budgets of five digits and more; what a page means to run in full has fewer."""
    for pattern, replacement in TINY:
        code = re.sub(pattern, replacement, code)
    return code
