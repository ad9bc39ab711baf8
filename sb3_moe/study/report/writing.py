"""The report of a study: a page, its figures and its tables, from folders alone."""

from __future__ import annotations

import base64
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from sb3_moe.plots.save import FORMATS, save_figure
from sb3_moe.saving.files import atomic, check_writable
from sb3_moe.study.claims import Claims, load_claims
from sb3_moe.study.report.figures import CURVES, figures
from sb3_moe.study.report.judging import judge, summarize
from sb3_moe.study.report.page import build_pages
from sb3_moe.study.report.replays import FOLDER
from sb3_moe.study.report.results import load_results
from sb3_moe.study.spec.grid import StudyConfig

PAGE, README, TABLE = "index.html", "README.md", "measures.csv"
TABLES = (TABLE, "measures.parquet", "summary.csv", "verdicts.csv")
FIGURES = (*CURVES, "differences", "expert_weights")
#: All that a report writes over, or deletes where it has none.
WRITTEN = (PAGE, README, *TABLES, *(f"{name}.{end}" for name in FIGURES for end in FORMATS))

# A run's own, without which it would be lost.
_OF_A_RUN = ("config.json", "done.json", "live.json", "error.json", "diagnostics.npz")


def write_report(
    study: StudyConfig, root: Path, folder: Path | None = None, partial: bool = False
) -> Path:
    """Write ``index.html``, its figures and tables, and a short ``README.md``.

    :param root: the study's folder
    :param folder: where to write; None for ``report`` in the study's folder
    :param partial: take runs that are not done for what they have
    :return: the page
    :raises ValueError: as of :func:`report_folder`
    """
    results = load_results(study, root, partial)
    folder = report_folder(root, folder)
    claims = load_claims(study.claims) if study.claims else Claims(claims=())
    claims.check_tasks(study.games)
    verdicts = judge(claims, results.table)
    summary = summarize(results.table, claims)
    # First of all: a report that was stopped before its end is known by its table.
    tables = {TABLE: results.table, "summary.csv": summary, "verdicts.csv": verdicts}
    for name in set(WRITTEN) - {TABLE}:
        (folder / name).unlink(missing_ok=True)
    for name, table in tables.items():
        if len(table):
            with atomic(folder / name) as temporary:
                table.to_csv(temporary, index=False, float_format="%.6g")
    if find_spec("pyarrow"):
        results.table.to_parquet(folder / "measures.parquet")
    drawn = {}
    for name, figure in figures(results, verdicts).items():
        save_figure(figure, folder / name, dpi=130)
        drawn[name] = base64.b64encode((folder / f"{name}.svg").read_bytes()).decode()
    replays = {
        each.name: f"{FOLDER}/{quote(each.name)}.html"
        for each in study.architectures
        if (folder / FOLDER / f"{each.name}.html").is_file()
    }
    files = [name for name in WRITTEN if (folder / name).exists()]
    context = {"figures": drawn, "files": files, "replays": replays}
    pages = build_pages(results, claims, verdicts, summary, **context)
    for name, text in zip((PAGE, README), pages, strict=True):
        with atomic(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / PAGE


def report_folder(root: Path, to: Path | None = None) -> Path:
    """Make the folder that a report goes to.

    :param root: the study's folder
    :param to: None for ``report`` in the study's folder
    :raises ValueError: as of :func:`check_report_folder`, or if it can't be written
    """
    folder, argument = (root / "report", "out") if to is None else (to, "to")
    check_report_folder(folder, argument)
    check_writable(folder, argument)
    return folder


def check_report_folder(folder: Path, argument: str = "to") -> None:
    """Raise if a report would write over, or delete, what is not an earlier report's.

    Nothing is written, so that a study can ask before it trains.

    :param folder: need not exist
    :param argument: what names it
    :raises ValueError: naming the folder, and a file that stands in the way
    """
    table, columns = folder / TABLE, b"regime,order,architecture,seed,measure,"
    earlier = table.is_file() and table.read_bytes().startswith(columns)
    for name in _OF_A_RUN if earlier else (*_OF_A_RUN, *WRITTEN):
        if (folder / name).exists():
            raise ValueError(
                f"`{argument}` must be a folder of its own, or an earlier report's, got {folder}, "
                f"whose {name} would be lost"
            )
