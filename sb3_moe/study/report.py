"""The report of a study: a page of tables and figures, and its files, from folders alone."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from sb3_moe.saving.files import atomic, check_writable
from sb3_moe.saving.model_file import SAFE, load
from sb3_moe.study.building import plain_env
from sb3_moe.study.engine import child_environment, environment
from sb3_moe.study.entries import flat
from sb3_moe.study.figures import CURVES, REGIMES, figures
from sb3_moe.study.folder import Job, survey
from sb3_moe.study.grid import StudyConfig
from sb3_moe.study.judging import Claims, judge, load_claims, summarize
from sb3_moe.study.measures import MEASURES, WHOLE
from sb3_moe.study.results import COLUMNS, Results, load_results
from sb3_moe.watching.figures import FORMATS, save_figure
from sb3_moe.watching.recording import watch
from sb3_moe.watching.replays import Replay

PAGE, README, TABLE = "index.html", "README.md", "measures.csv"
TABLES = (TABLE, "measures.parquet", "summary.csv", "verdicts.csv")
FIGURES = (*CURVES, "differences", "expert_weights")
#: All that a report writes over, or deletes where it has none.
WRITTEN = (PAGE, README, *TABLES, *(f"{name}.{end}" for name in FIGURES for end in FORMATS))
#: Where agents at play lie, beside the page.
REPLAYS = "replays"
# A page stays small enough to be sent, and is recorded in seconds.
MAX_STEPS = 500
# What answers a study's question at a glance; the others are further down the page.
_FIRST = {(measure, regime) for measure in ("block_end", "success") for regime in REGIMES}
_FIRST |= {("final", "crl"), ("final", "schedule")}


def write_report(
    study: StudyConfig, root: Path, folder: Path | None = None, partial: bool = False
) -> Path:
    """Write ``index.html``, its figures and tables, and a short ``README.md``.

    :param root: the study's folder
    :param folder: where to write; None for ``report`` in the study's folder
    :param partial: take runs that are not done for what they have
    :return: the page
    :raises ValueError: as of :func:`check_report_folder`, or if it can't be written
    """
    results = load_results(study, root, partial)
    folder = check_report_folder(root, folder)
    check_writable(folder, "to")
    claims = load_claims(study.claims, study.games)
    verdicts, summary = judge(claims, results.table), summarize(results.table, claims)
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
    context = _context(results, claims, verdicts, summary) | {
        "figures": drawn,
        "files": [name for name in WRITTEN if (folder / name).exists()],
        "replays": {
            each.name: f"{REPLAYS}/{quote(each.name)}.html"
            for each in study.architectures
            if (folder / REPLAYS / f"{each.name}.html").is_file()
        },
    }
    for name in (PAGE, README):
        with atomic(folder / name) as temporary:
            text = _environment().get_template(f"{name}.j2").render(context)
            temporary.write_text(text, encoding="utf-8")
    return folder / PAGE


def check_report_folder(root: Path, to: Path | None = None) -> Path:
    """Give the folder that a report goes to, unless files of others lie there.

    Nothing is written, so that a study can ask before it trains.

    :param root: the study's folder
    :param to: None for ``report`` in the study's folder
    :raises ValueError: naming the folder
    """
    folder = root / "report" if to is None else to
    table, columns = folder / TABLE, ",".join(COLUMNS[:5]).encode()
    earlier = table.is_file() and table.read_bytes().startswith(columns)
    others = folder.is_dir() and {path.name for path in folder.iterdir()} - {REPLAYS}
    if others and not earlier:
        raise ValueError(
            f"`to` must be a folder of its own, or an earlier report's, got {folder}, which holds "
            "other files"
        )
    return folder


def number(value: float) -> str:
    """Write a number with two or three significant digits, a dash for none."""
    if value != value:
        return "-"
    if 0 < abs(value) < 0.1:
        return f"{value:#.2g}"
    decimals = 2 - int(abs(value) >= 10) - int(abs(value) >= 100)
    return f"{value:,.{decimals}f}"


def interval(mean: float, low: float, high: float) -> str:
    """Write a number and its interval; the number alone where there is none.

    Beside one that is 0.1 or more, nobody needs more than the hundredths of the others.
    """
    if low != low:
        return number(mean)
    values = (mean, low, high)
    small = max(map(abs, values)) >= 0.1
    texts = [f"{v:.2f}" if small and 0.005 <= abs(v) < 0.1 else number(v) for v in values]
    return "{} [{}, {}]".format(*texts)


def _context(
    results: Results, claims: Claims, verdicts: pd.DataFrame, summary: pd.DataFrame
) -> dict[str, Any]:
    """Give what the templates show: texts of the study's own, and tables."""
    study = results.study
    configuration = study.to_dict()
    tasks = ", ".join(study.games) if len(study.games) <= 5 else f"{len(study.games)} tasks"
    networks = {each["name"]: each for each in configuration.pop("architectures")}
    del configuration["about"]
    problems = pd.DataFrame(results.problems, columns=["run", "task", "problem", "value"])
    return {
        "study": study,
        "title": study.about.title or f"{study.name}: {study.algorithm}, {tasks}",
        "done": f"{len(results.runs)} of {len(study.runs())} runs are done.",
        "rule": claims.rule,
        "units": flat(claims.units),
        "comparisons": list(_comparisons(results, summary)),
        "claims": list(_claims(verdicts)) if len(verdicts) else [],
        "curves": CURVES,
        "tuned": _tuned(results.choices),
        "problems": problems.set_index("run"),
        "protocol": study.claims.read_text(encoding="utf-8") if study.claims else "",
        "configuration": _columns({"value": configuration}),
        "networks": _columns(networks),
        "arguments": _columns(results.arguments),
        "provenance": _columns({"value": results.provenance}),
    }


def _comparisons(results: Results, summary: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Give a table of networks by tasks for each measure and regime."""
    for (measure, regime), rows in summary.groupby(["measure", "regime"], sort=False):
        fields = rows.assign(field=[_field(row) for row in rows.to_dict("records")])
        table = fields.pivot(index="architecture", columns="task", values="field")
        tasks = [task for task in (WHOLE, *results.study.games) if task in table]
        table = table.loc[rows["architecture"].unique(), tasks].rename_axis("network")
        if measure in ("block_end", "final", "area"):
            table.loc["random policy"] = {k: number(v) for k, v in results.random.items()}
        meaning = f"{REGIMES[str(regime)]}: {MEASURES[str(measure)].meaning}"
        is_first = (measure, regime) in _FIRST
        yield {"meaning": meaning, "is_first": is_first, "table": table}


def _field(row: Mapping[Any, Any]) -> str:
    """Write what is known of a network on a task, the mean with its interval first."""
    mean = interval(row["mean"], row["low"], row["high"])
    lines = [mean, f"IQM {number(row['iqm'])}, n {row['seeds']}"]
    if row["verdict"]:
        values = (row["difference"], row["difference_low"], row["difference_high"])
        mark = {"higher": "▲ ", "lower": "▼ "}.get(row["verdict"], "")
        p = "< 0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}"
        lines += [interval(*values), f"{mark}{row['verdict']}, p {p}"]
    return "\n".join(lines)


def _claims(verdicts: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Give what was claimed, what came out, and the table of its comparisons."""
    for (text, verdict), rows in verdicts.groupby(["text", "claim_verdict"], sort=False):
        secondary = rows["primary"].map({True: "", False: " (secondary)"})
        margin = rows["smallest_effect"].map(", {}".format)
        columns = {
            "comparison": rows["contrast"] + secondary,
            "measure": rows["measure"],
            "task": rows["task"],
            "difference": [interval(*each) for each in rows[["difference", "low", "high"]].values],
            "expected": rows["expects"].str.replace("_", " ") + margin,
            "p": rows["p"].map(number),
            "p (Holm)": rows["p_adjusted"].map(number),
            "seeds": rows["seeds"],
            "verdict": rows["verdict"],
        }
        table = pd.DataFrame(columns).set_index("comparison")
        yield {"text": text, "verdict": verdict, "table": table}


def _tuned(choices: Mapping[str, Any]) -> pd.DataFrame:
    """Give the values that were tried for each network, and which it took."""
    if not choices:
        return pd.DataFrame()
    nan = float("nan")
    rows = {
        name: {
            choices["tune"]["argument"]: f"{found['value']:g}",
            "best at the grid's edge": "yes" if found["at_the_edge"] else "no",
            **{f"score at {v:g}": number(nan if s is None else s) for v, s in found["scores"]},
        }
        for name, found in choices["networks"].items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("network")


def _columns(entries: Mapping[str, Any]) -> pd.DataFrame:
    """Give each entry that any of several nested mappings has, with its value in each."""
    table = pd.DataFrame({name: flat(values) for name, values in entries.items()})
    return table.map(_as_written).rename_axis("entry")


def _as_written(value: Any) -> str:
    return "" if value != value else str(value)


def _as_html(table: pd.DataFrame) -> str:
    """Write a table as HTML; all its texts are escaped, and their lines stay."""
    table = table.rename_axis(index=None, columns=str(table.index.name))  # above the first column
    with pd.option_context("display.max_colwidth", None):
        text = table.to_html(border=0, na_rep="", justify="left", float_format=number)
    return text.replace("\\n", "<br>")  # as which pandas writes the end of a line


def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("sb3_moe.study"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["as_html"] = _as_html
    return found


def write_replays(study: StudyConfig, root: Path, to: Path) -> Iterator[str]:
    """Play every task with each network, by the first of its runs that is done.

    :param root: the study's folder
    :param to: the report's folder, which gets ``replays/<network>.html``
    :return: a line for each network, on what came of it, while they are played
    """
    jobs: dict[str, Job] = {}
    for job in survey(study.runs(), root):
        if job.state.status == "done":
            jobs.setdefault(job.run.architecture.name, job)
    with environment(child_environment(root)):
        for name, job in jobs.items():
            page = to / REPLAYS / f"{name}.html"
            try:
                replay = _replay(job)
                page.parent.mkdir(parents=True, exist_ok=True)
                yield f"replay: {replay.save(page)}"
            except Exception as error:  # what a task can't do, or lacks for it, is its own to say
                yield f"no replay of {name}: {str(error) or type(error).__name__}"


def _replay(job: Job) -> Replay:
    """Play every task once.

    :raises ValueError: if the run's model can't be opened safely, or lacks its normalizer
    """
    from sb3_moe_envs.schedules import Interleave

    run, path = job.run, job.folder.path / SAFE
    if not path.exists():
        raise ValueError(f"{run.name} has no {SAFE}, since code of your own is in its model")
    env = plain_env(run, len(run.games), run.seed, Interleave())
    try:
        # One's own model may be of any size.
        model = load(path, env, device="cpu", max_bytes=sys.maxsize)
        if run.normalize is not None and model.get_vec_normalize_env() is None:
            raise ValueError(f"{SAFE} lacks the statistics of its normalizer")
        replay = watch(model, max_steps=MAX_STEPS)
    finally:
        env.close()
    replay.title = run.name
    return replay
