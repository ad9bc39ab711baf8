"""Every key that a callback logs is printed by SB3's table, and taken by any tracker."""

import io
import posixpath
import re

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.logger import HumanOutputFormat, KVWriter, Logger
from toy import toy_vec_env

from sb3_moe.callbacks import (
    MultiTaskEvalCallback,
    PlasticityCallback,
    ReDoCallback,
    ResetHeadsCallback,
    RoutingCallback,
    ShrinkAndPerturbCallback,
    TaskGradientCallback,
    TaskRolloutCallback,
    TaskSwitchCallback,
    collect_probe,
)
from sb3_moe.vec_env.tasks import short_names

LONG = "a-task-whose-name-has-sixty-characters-and-ends-or-bends-so"
NAMES = {
    "end": (LONG + "1", LONG + "2", LONG + "3"),
    "unicode": ("снег", "雪", "neige à Paris"),
    "arguments": ("CartPole(gravity=1.6,length=0.5)", "CartPole(gravity=1.7,length=0.5)", "a b@c"),
    "folders": ("a", "a/b", "a.b"),
}


TAUS = (0.025, 0.0, 0.1, 1e-05, 0.1 + 0.2, 2e20)


class Kept(KVWriter):
    """Keeps each key that is written, once for each time."""

    def __init__(self):
        self.rows, self.printed = [], []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append(set(key_values))
        self.printed.append({k for k in key_values if "stdout" not in (key_excluded[k] or ())})

    def close(self):
        pass


def printed(key):
    """What SB3's table shows of a key: (tag, the rest behind three spaces, cut at 36)."""
    tag, _, rest = key.partition("/")
    rest = f"   {rest}"
    return tag, rest if len(rest) <= 36 else rest[:33] + "..."


def parents(key):
    return [key[:at] for at, letter in enumerate(key) if letter == "/"]


def train(model, steps, callbacks):
    """Return the rows of keys that were logged, while SB3's own table prints each too."""
    kept, table = Kept(), io.StringIO()
    model.set_logger(Logger(None, [kept, HumanOutputFormat(table)]))
    model.learn(steps, callback=callbacks)
    for row in kept.printed:
        assert len({printed(key) for key in row}) == len(row) < 40
    return kept.rows


def check(rows):
    for row in rows:
        assert all(re.fullmatch(r"[A-Za-z0-9_\-./]+", key) for key in row), row
        # MLflow refuses a name that is not its own normal path.
        assert all(posixpath.normpath(key) == key for key in row)
        # Its store of files makes one of each, in folders of what comes before a slash.
        assert not {parent for key in row for parent in parents(key)} & row


@pytest.mark.parametrize("kind", NAMES)
def test_keys_of_every_callback_are_printed_apart_and_taken_by_trackers(kind, tmp_path):
    names = NAMES[kind]
    pinned = toy_vec_env((0,), (1,), (2,), names=names)
    sizes = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}
    sizes["policy_kwargs"] = {"placement": "all", "num_experts": 11, "net_arch": [4, 4]}
    model = PPO("MoeMultiInputPolicy", toy_vec_env((0, 1, 2), names=names), **sizes)
    batches = collect_probe(pinned, 12)
    callbacks = [
        MultiTaskEvalCallback(64, 1, eval_env=pinned, log_path=tmp_path),
        TaskRolloutCallback(),
        PlasticityCallback(64, probe=batches, taus=TAUS, ntk_size=3, log_path=tmp_path),
        RoutingCallback(64, probe=batches),
        *(kind(64) for kind in (ReDoCallback, ResetHeadsCallback, ShrinkAndPerturbCallback)),
        TaskGradientCallback(64),
        TaskSwitchCallback(reset_heads=True),
    ]
    rows = train(model, 96, callbacks)
    check(rows)
    logged = set().union(*rows)
    tags = ("eval", "rollout", "continual", "plasticity", "moe")
    assert all(any(key.startswith(f"{tag}/") for key in logged) for tag in tags)
    for kinds, parts in (("eval/.*/mean_reward", 3), ("rollout/.*/success_rate", 3)):
        assert sum(re.fullmatch(kinds, key) is not None for key in logged) == parts
    # Gradients of three tasks beside those of the networks.
    assert sum(key.startswith("plasticity/advantage_variance/") for key in logged) == 3
    for file in ("scores.npz", "diagnostics.npz"):  # which have the names and numbers in full
        with np.load(tmp_path / file) as saved:
            assert saved["task_names"].tolist() == list(names)
            assert file == "scores.npz" or any(name.startswith("dormant@0.0/") for name in saved)


def test_what_tasks_have_forgotten_is_logged_beside_the_running_task():
    env = toy_vec_env((0, 1, 2))
    pinned = toy_vec_env((0,), (1,), (2,))
    model = PPO("MultiInputPolicy", env, n_steps=6, batch_size=6, n_epochs=1)
    callbacks = [MultiTaskEvalCallback(64, 1, eval_env=pinned), TaskSwitchCallback()]
    rows = train(model, 24, callbacks)
    logged = set().union(*rows)
    assert {"continual/task", "continual/switches"} < logged
    assert sum(key.endswith("/forgotten") for key in logged) >= 2
    check([logged])


def test_names_that_fit_stay_and_the_others_keep_their_ends():
    names = ["CartPole-v1", "x" * 18, "HalfCheetahGravity4-1.5g", "Cart Pole(g=9.8)", "", "a//b"]
    short = [*names[:2], "HalfCh--vity4-1.5g", "Cart_Pole_g_9.8", "task", "a_b"]
    assert short_names(names) == short
    assert short_names(["a_b", "a/b", "c"]) == ["a_b", "a_b-2", "c"]
