"""The report of a study: a page of tables and figures, and its files, from the folder alone."""

import base64
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from sb3_moe.measures.statistics import decimals
from sb3_moe.saving.files import atomic, check_writable
from sb3_moe.saving.model_file import SAFE, load
from sb3_moe.study.building import plain_env
from sb3_moe.study.config import StudyConfig
from sb3_moe.study.figures import CURVES, REGIMES, figures
from sb3_moe.study.folder import Job, survey
from sb3_moe.study.judging import Claims, judge, load_claims, summarize
from sb3_moe.study.results import INSIDES, MEASURES, NAN, WHOLE, Results, load_results
from sb3_moe.watching.figures import FORMATS, save_figure
from sb3_moe.watching.recording import watch
from sb3_moe.watching.replays import Replay
from sb3_moe_envs.schedules import Interleave

PAGE = "index.html"
README = "README.md"
TABLE = "measures.csv"
#: All files that a report writes; those that it has no data for are deleted.
WRITTEN = [PAGE, README, TABLE, "measures.parquet", "summary.csv", "verdicts.csv"]
WRITTEN += [f"{name}.{end}" for name in (*CURVES, "expert_weights") for end in FORMATS]
#: The folder of the replays, beside the page.
REPLAYS = "replays"
# Most steps of a task in a replay, so that its page can be sent, and is recorded in seconds.
MAX_STEPS = 500
# The measures and regimes of the first tables, which answer a study's question at a glance.
_FIRST = {(measure, regime) for measure in ("block_end", "success") for regime in REGIMES}
_FIRST |= {("final", "crl"), ("final", "schedule")}


def write_report(
    study: StudyConfig, root: Path, folder: Path | None = None, partial: bool = False
) -> Path:
    """Write ``index.html``, its figures and tables, and a short ``README.md``.

    :param root: the study's folder
    :param folder: where to write; None for ``report`` in the study's folder
    :param partial: with the curves of runs that are not done
    :return: the page
    :raises ValueError: as in :func:`check_report_folder`, or if the folder can't be written to
    """
    results = load_results(study, root, partial)
    folder = check_report_folder(root, folder)
    check_writable(folder, "to")
    claims = load_claims(study.claims, study.games)
    grid = of_the_grid(study, results.table)
    verdicts = judge(claims, grid)
    summary = summarize(grid, claims, study.networks)
    # The table is written first, never deleted: it marks the folder of an unfinished report too.
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
    for name, figure in figures(results, claims.units).items():
        save_figure(figure, folder / name, dpi=130)
        drawn[name] = base64.b64encode((folder / f"{name}.svg").read_bytes()).decode()
    played = [name for name in results.arguments if (folder / REPLAYS / f"{name}.html").is_file()]
    context = _context(results, claims, verdicts, summary) | {
        "figures": drawn,
        "files": [name for name in WRITTEN if (folder / name).exists()],
        "replays": {name: f"{REPLAYS}/{quote(name)}.html" for name in played},
    }
    templates = Environment(
        loader=PackageLoader("sb3_moe.study"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["as_html"] = _as_html
    for name in (PAGE, README):
        with atomic(folder / name) as temporary:
            text = templates.get_template(f"{name}.j2").render(context)
            temporary.write_text(text, encoding="utf-8")
    return folder / PAGE


def of_the_grid(study: StudyConfig, table: pd.DataFrame) -> pd.DataFrame:
    """Leave out runs that the grid lacks, and that were only there for others to begin with."""
    orders = {each: [" ".join(order) for order in study.sequences(each)] for each in study.regimes}
    names = study.only or study.networks
    runs = zip(table["architecture"], table["regime"], table["order"], strict=True)
    return table[[name in names and order in orders[regime] for name, regime, order in runs]]


def check_report_folder(root: Path, to: Path | None = None) -> Path:
    """Give the folder that a report goes to, unless it holds files of other origin.

    Nothing is written, so that a study can check this before it trains.

    :param root: the study's folder
    :param to: where to write; None for ``report`` in the study's folder
    :raises ValueError: naming the folder
    """
    folder = root / "report" if to is None else to
    others = folder.is_dir() and {path.name for path in folder.iterdir()} - {REPLAYS}
    if others and TABLE not in others:
        raise ValueError(
            f"`to` must be empty, or hold an earlier report, got other files in {folder}"
        )
    return folder


def written(value: float, low: float = NAN, high: float = NAN) -> str:
    """Format a number with three digits, and its interval if it has one; NaN is a dash."""
    if value != value:
        return "-"
    digits = decimals([value, low, high])
    numbers = [f"{each:,.{digits}f}" for each in (value, low, high)]
    return numbers[0] if low != low else "{} [{}, {}]".format(*numbers)


def _chance(p: float) -> str:
    return "-" if p != p else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _context(
    results: Results, claims: Claims, verdicts: pd.DataFrame, summary: pd.DataFrame
) -> dict[str, Any]:
    """Give the variables of the templates: the study's own texts, and tables."""
    study = results.study
    configuration = study.to_dict()
    tasks = ", ".join(study.games) if len(study.games) <= 5 else f"{len(study.games)} tasks"
    networks = {each["name"]: each for each in configuration.pop("architectures")}
    del configuration["about"]
    problems = pd.DataFrame(results.problems, columns=["run", "task", "problem", "value"])
    done = f"{sum(run.is_done for run in results.runs)} of {len(study.runs())} runs are done."
    if any(not run.is_done for run in results.runs):
        done += " Curves also have the others; tables, claims and weights of experts do not."
    said = {name: results.said.get(name) for name in ("command", "versions")}
    return {
        "study": study,
        "title": study.about.title or f"{study.name}: {study.algorithm}, {tasks}",
        "done": done,
        "has_blocks": any(run.config.order for run in results.runs),
        "rule": claims.rule,
        "units": claims.units,
        "answer": _answer(study, summary, claims.rule.min_seeds) if len(summary) else "",
        "comparisons": list(_comparisons(results, summary)) if len(summary) else [],
        "claims": list(_claims(verdicts)) if len(verdicts) else [],
        "insides": INSIDES,
        "tuned": _tuned(results.choices),
        "problems": problems.set_index("run"),
        "protocol": study.claims.read_text(encoding="utf-8") if study.claims else "",
        "configuration": _columns({"value": configuration}),
        "networks": _columns(networks),
        "arguments": _columns(results.arguments),
        "provenance": _columns({"value": said}),
    }


def _answer(study: StudyConfig, summary: pd.DataFrame, min_seeds: int) -> str:
    """Say in a sentence which networks the first tables show to beat the first network."""
    done = set(summary["architecture"])
    first, *others = [name for name in study.networks if name in done]
    if not others:
        return ""
    if summary["seeds_compared"].max() < min_seeds:
        return f"Fewer than {min_seeds} seeds show nothing: all differences are undecided."
    measures = pd.MultiIndex.from_frame(summary[["measure", "regime"]])
    rows = summary[measures.isin([*_FIRST])]  # in all of which more is better
    where = ""
    if WHOLE in set(rows["task"]):
        rows = rows[rows["task"] == WHOLE]
        where = ", in the mean over all tasks"
    better = [
        f"{row['architecture']} ({REGIMES[row['regime']]}: {MEASURES[row['measure']].meaning})"
        for row in rows[rows["verdict"] == "higher"].to_dict("records")
    ]
    if better:
        return f"Shown to be better than {first}, the first network{where}: {'; '.join(better)}."
    return f"No network is shown to be better than {first}, the first network{where}."


def _comparisons(results: Results, summary: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Give a table of networks by tasks for each measure and regime; costs are below names."""
    costs = {
        name: f"{name}\n{each['parameters']:,} parameters\n{each['flops']:,} FLOPs"
        for name, each in results.costs.items()
        if each
    }
    for (measure, regime), rows in summary.groupby(["measure", "regime"], sort=False):
        fields = rows.assign(field=[_field(row) for row in rows.to_dict("records")])
        table = fields.pivot(index="architecture", columns="task", values="field")
        tasks = [task for task in (WHOLE, *results.study.games) if task in table]
        table = table.loc[rows["architecture"].unique(), tasks].rename_axis("network")
        if measure in ("block_end", "final", "area"):
            table.loc["random policy"] = {k: written(v) for k, v in results.random.items()}
        meaning = f"{REGIMES[str(regime)]}: {MEASURES[str(measure)].meaning}"
        is_first = (measure, regime) in _FIRST
        yield {"meaning": meaning, "is_first": is_first, "table": table.rename(index=costs)}


def _field(row: Mapping[Any, Any]) -> str:
    """Format a network's results on a task: the mean first, then the difference if there is one."""
    mean = written(row["mean"], row["low"], row["high"])
    lines = [mean, f"IQM {written(row['iqm'])}, n {row['seeds']}"]
    if row["verdict"]:
        values = (row["difference"], row["difference_low"], row["difference_high"])
        mark = {"higher": "▲ ", "lower": "▼ "}.get(row["verdict"], "")
        lines += [written(*values), f"{mark}{row['verdict']}", f"p (Holm) {_chance(row['p_holm'])}"]
    return "\n".join(lines)


def _claims(verdicts: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Give the text of each claim, its verdict, and the table of its comparisons."""
    for _, rows in verdicts.groupby("claim", sort=False):
        columns = {
            "comparison": rows["contrast"] + np.where(rows["primary"], "", " (secondary)"),
            "measure": rows["measure"],
            "task": rows["task"],
            "difference": list(map(written, rows["difference"], rows["low"], rows["high"])),
            "expected": rows["expects"].str.replace("_", " ")
            + rows["smallest_effect"].map(", {}".format),
            "p": rows["p"].map(_chance),
            "p (Holm)": rows["p_adjusted"].map(_chance),
            "seeds": rows["seeds"],
            "verdict": rows["verdict"],
        }
        table = pd.DataFrame(columns).set_index("comparison")
        claim = rows.iloc[0]
        yield {"text": claim["text"], "verdict": claim["claim_verdict"], "table": table}


def _tuned(choices: Mapping[str, Any]) -> pd.DataFrame:
    """Give the values that were tried for each network, and which it took."""
    rows = {
        name: {
            choices["tune"]["argument"]: f"{found['value']:g}",
            "best at the grid's edge": "yes" if found["at_the_edge"] else "no",
            **{f"score at {v:g}": "-" if s is None else written(s) for v, s in found["scores"]},
        }
        for name, found in choices.get("networks", {}).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("network")


def _columns(entries: Mapping[str, Any]) -> pd.DataFrame:
    """Give a table of several nested mappings: a row for each entry, a column for each mapping."""
    columns = {name: pd.json_normalize(values).iloc[0] for name, values in entries.items()}
    table = pd.DataFrame(columns, dtype=object).fillna("").map(str)
    return table[(table != "").any(axis=1)].rename_axis("entry")


def _as_html(table: pd.DataFrame) -> str:
    """Write a table as HTML, with its texts escaped and their line breaks kept."""
    # The index's name goes above the first column.
    table = table.rename_axis(index=None, columns=str(table.index.name))
    with pd.option_context("display.max_colwidth", None):
        text = table.to_html(border=0, na_rep="", justify="left", float_format=written)
    return text.replace("\\n", "<br>")  # pandas writes a line break as \ and n


def write_replays(study: StudyConfig, root: Path, to: Path) -> Iterator[str]:
    """Record how each network plays every task, with its first run that is done.

    :param root: the study's folder
    :param to: the report's folder, which gets ``replays/<network>.html``
    :return: a line for each network as soon as it has played: the page, or why there is none
    """
    jobs: dict[str, Job] = {}
    for job in survey(study.runs(), root):
        if job.state.status == "done":
            jobs.setdefault(job.run.architecture.name, job)
    for name, job in jobs.items():
        try:
            yield f"replay: {_replay(job).save(to / REPLAYS / f'{name}.html')}"
        except Exception as error:  # a task that can't be played or shown may raise anything
            yield f"no replay of {name}: {str(error) or type(error).__name__}"


def _replay(job: Job) -> Replay:
    """Play every task once.

    :raises ValueError: if the run's model can't be opened safely, or lacks its normalizer
    """
    run = job.run
    path = job.folder.path / SAFE
    if not path.exists():
        raise ValueError(
            f"{run.name} has no {SAFE}, since code of your own is in its model; open its model.zip "
            f"with {run.algorithm}.load, and call sb3_moe.watch"
        )
    with closing(plain_env(run, len(run.games), run.seed, Interleave())) as env:
        # The size is not limited: the study wrote this model itself.
        model = load(path, env, device="cpu", max_bytes=sys.maxsize)
        if run.normalize is not None and model.get_vec_normalize_env() is None:
            raise ValueError(f"{SAFE} lacks the statistics of its normalizer")
        replay = watch(model, max_steps=MAX_STEPS)
    replay.title = run.name
    return replay
