"""Which value of each remedy coefficients.yaml picks, by the rule of protocol.md, as Markdown.

python examples/grow/picked.py runs/grow/coefficients/report
"""

import argparse
from collections import defaultdict
from pathlib import Path

import pandas as pd


def returns(report: Path) -> dict[str, dict[str, float]]:
    """Give the mean return at the end over tasks and seeds, by remedy and its value."""
    rows = pd.read_csv(report / "measures.csv")
    means = rows[rows["measure"] == "final"].groupby("architecture", sort=False)["value"].mean()
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for name, mean in means.items():
        remedy, _, value = str(name).partition("-")
        found[remedy][value] = mean
    return found


def main() -> None:
    """Print a row for each remedy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    print("| remedy | value | return at the end, mean of three seeds |\n|---|---|---|")
    for remedy, by_value in returns(parser.parse_args().report).items():
        best = max(by_value, key=lambda value: by_value[value])
        others = ", ".join(f"{value}: {r:.0f}" for value, r in by_value.items() if value != best)
        print(f"| {remedy} | {best} | {by_value[best]:.0f} ({others}) |")


if __name__ == "__main__":
    main()
