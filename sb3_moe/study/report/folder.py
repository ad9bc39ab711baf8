"""The folder of a report: what lies there, and which folders may be taken for it."""

from __future__ import annotations

from pathlib import Path

from sb3_moe.plots.save import FORMATS

PAGE = "index.html"
README = "README.md"
#: What lies beside the page.
FILES = {
    "summary.csv": "returns by network and task",
    "scores.csv": "the mean return of every seed, evaluation and task",
    "curves.csv": "whatever else the charts show while training goes on",
    "measures.csv": "every measure of every run: what the comparisons rest on",
    "verdicts.csv": "a row for each comparison and task",
    "scores.npz": "the return of every episode, at the steps that all seeds of a network have",
}
PICTURES = {
    "learning_curves": "Returns while training goes on",
    "dormant_neurons": "Dormant neurons while training goes on",
    "expert_weights": "How much each expert counts for each task",
    "differences": "Every primary comparison",
}
#: All that a report writes over, or deletes where it has none.
WRITTEN = (README, PAGE, *FILES, *(f"{name}.{end}" for name in PICTURES for end in FORMATS))

# A run's own, without which it would be lost; its ``scores.npz`` has the name of a report's.
_OF_A_RUN = ("config.json", "done.json", "live.json", "error.json", "diagnostics.npz")
# Every version's pages have these headings, and no other page is likely to have both; every
# version's tables begin so.
_COLUMNS = b"regime,order,architecture,game,seeds,random,return,low,high,"
_HEADINGS = (b"<h2>What the agents reached</h2>", b"<h2>To check this page</h2>")


def check_report_folder(folder: Path, argument: str = "to") -> None:
    """Raise if a report would write over, or delete, what is no earlier report's.

    Nothing is written, so that a study can ask before it trains.

    :param folder: need not exist
    :param argument: what names it
    :raises ValueError: naming the folder, and a file that stands in the way
    """
    rule = f"`{argument}` must be a folder of its own, or an earlier report's, got {folder}"
    for name in _OF_A_RUN:
        if (folder / name).exists():
            raise ValueError(f"{rule}, where a run has its {name}")
    if _is_a_reports(folder):
        return
    for name in WRITTEN:
        if (folder / name).exists():
            raise ValueError(f"{rule}, whose {name} would be lost")


def _is_a_reports(folder: Path) -> bool:
    """Say whether a folder is an earlier report's, by its page, or its table where it has none."""
    try:
        if (folder / PAGE).exists():
            html = (folder / PAGE).read_bytes()
            return all(heading in html for heading in _HEADINGS)
        return (folder / "summary.csv").read_bytes().startswith(_COLUMNS)
    except OSError:
        return False
