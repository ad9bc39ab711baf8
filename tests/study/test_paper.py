"""The earlier studies of the paper's questions: what they compare, and how they were chosen."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from sb3_moe.measures.curves import normalize, random_returns, reference_returns
from sb3_moe.study.config import load_study

EARLIER = Path(__file__).parents[2] / "examples" / "paper" / "earlier"


def test_the_rates_are_compared_on_seeds_that_the_study_does_not_use():
    paper, rates = (load_study(str(EARLIER / name)) for name in ("study.yaml", "rates.yaml"))
    assert not set(paper.seeds) & set(rates.seeds)
    assert {a.arguments["learning_rate"] for a in rates.architectures} == {1e-3, 2.5e-3, 5e-3}


def test_each_network_has_the_rate_that_did_best_on_other_seeds():
    random, reference = random_returns("MinAtar/MTRL3"), reference_returns("MinAtar/MTRL3")
    reached = defaultdict(lambda: defaultdict(list))
    for row in pd.read_csv(EARLIER / "rates" / "summary.csv").to_dict("records"):
        network, _, rate = row["architecture"].rpartition("-")
        game, while_trained = row["game"], float(row["while_trained"])
        level = float(normalize(while_trained, random[game], reference[game]))
        reached[network][float(rate)].append(level)
    best = {
        network: max(levels, key=lambda rate: np.mean(levels[rate]))
        for network, levels in reached.items()
    }
    best["soft-big-pi"] = best["soft-big-vf"] = best["soft-big"]
    own = load_study(str(EARLIER / "own_rates.yaml"))
    assert {a.name: a.arguments["learning_rate"] for a in own.architectures} == best
