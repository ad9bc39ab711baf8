"""The report of a study: one page, its pictures and its tables, from folders alone."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from matplotlib.figure import Figure

from sb3_moe.plots.save import FORMATS, save_figure
from sb3_moe.saving.files import atomic, check_writable, write_npz
from sb3_moe.study.report import figures, tables
from sb3_moe.study.report.charts import curves, networks
from sb3_moe.study.report.folder import PAGE, PICTURES, README, check_report_folder
from sb3_moe.study.report.headline import claims_table, returns_table
from sb3_moe.study.report.rendering import render
from sb3_moe.study.report.replays import FOLDER
from sb3_moe.study.report.results import Results, load_results
from sb3_moe.study.report.sections import build_page, said
from sb3_moe.study.spec.grid import StudyConfig


def write_report(
    study: StudyConfig, root: Path, folder: Path | None = None, partial: bool = False
) -> Path:
    """Write ``index.html``, its pictures and CSV files, ``scores.npz`` and a short ``README.md``.

    :param root: the study's folder
    :param folder: where to write; None for ``report`` in the study's folder
    :param partial: take runs that are not done for what they have
    :return: the page
    :raises ValueError: as of :func:`report_folder`
    """
    results = load_results(study, root, partial)
    folder = report_folder(root, folder)
    rows = {
        "summary": tables.summary(results.runs, results.random),
        "verdicts": tables.verdicts(results.findings),
        "scores": tables.scores(results.runs),
        "curves": curves(results.runs, results.references),
        "measures": tables.measures(results.runs, results.references),
    }
    pictures = _figures(results)
    # First of all: a report that was stopped before its end is known by its page.
    with atomic(folder / PAGE) as temporary:
        page = build_page(results, rows, pictures, _replays(results, folder))
        temporary.write_text(page, encoding="utf-8")
    for name, table in rows.items():
        if table:
            tables.write_csv(folder / f"{name}.csv", table)
        else:
            (folder / f"{name}.csv").unlink(missing_ok=True)
    write_npz(folder / "scores.npz", tables.tensors(results.runs))
    for name, figure in pictures.items():
        save_figure(figure, folder / name, dpi=130)
    for name in PICTURES.keys() - pictures:
        for ending in FORMATS:
            (folder / f"{name}.{ending}").unlink(missing_ok=True)
    with atomic(folder / README) as temporary:
        temporary.write_text(_readme(results, folder), encoding="utf-8")
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


def _figures(results: Results) -> dict[str, Figure]:
    """Draw what there is something to draw of."""
    drawn = {
        "differences": figures.differences(results.findings),
        "learning_curves": figures.learning_curves(results.runs, results.random),
        "dormant_neurons": figures.dormant_neurons(results.runs),
        "expert_weights": figures.expert_weights(results.runs),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _replays(results: Results, folder: Path) -> dict[str, str]:
    """Find the pages on which networks are seen at play."""
    names = figures.architectures(results.runs)
    return {
        network["name"]: f"{FOLDER}/{quote(name)}.html"
        for name, network in zip(names, networks(names), strict=True)
        if (folder / FOLDER / f"{name}.html").is_file()
    }


def _readme(results: Results, folder: Path) -> str:
    """Give the headline as Markdown, for those who browse the folder."""
    context = said(results)
    untested = {
        (finding.claim.name, finding.claim.text): [
            f"{finding.comparison(each)}, {each.measure.replace('_', ' ')}"
            for each in finding.untested
        ]
        for finding in results.findings
    }
    table = claims_table(folder, results.claims.rule, untested) if results.findings else ""
    return render(
        "README.md.j2",
        **context,
        claims_table=table,
        returns_table=returns_table(folder, results.study.cycles),
    )
