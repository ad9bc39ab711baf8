"""Race this code against older code: ``python -m benchmarks.before <its checkout>``.

Both train the cases of ``benchmarks.training``, or call the layers of ``benchmarks.layers``, in
processes of their own that take turns, one thread each, with freed memory kept. Processor time is
measured, so that other work on the machine matters little. Beside each median stand the quartiles
over rounds. Both processes run the benchmarks of this checkout; make the other checkout with
``git worktree add <folder> <commit>``.
"""

import importlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch as th
import tyro

from benchmarks.timing import by_name, quartiles, ratios

ROOT = Path(__file__).resolve().parents[1]
# The child imports our packages from the checkout in which it starts, benchmarks from this one.
CHILD = """
import sys
import sb3_moe, sb3_moe_envs
sys.path.insert(0, sys.argv[1])
from benchmarks.before import answer
answer(sys.argv[2])
"""
# The seconds of each function, round by round.
Rounds = list[dict[str, float]]


@dataclass
class Options:
    """Print a table.

    :param checkout: root of the older code
    :param what: what is timed: training in ratios of speed, layers in microseconds
    :param only: the cases whose names contain this
    :param rounds: turns of each code in a process; a multiple of four is fair to both
    :param starts: processes of each code: one may be up to 5% faster by its memory layout alone
    """

    checkout: tyro.conf.Positional[Path]
    what: tyro.conf.Positional[Literal["training", "layers"]] = "training"
    only: str = ""
    rounds: int = 4
    starts: int = 1


def compare(
    checkout: Path, what: str, names: list[str], *, rounds: int, starts: int = 1
) -> Iterator[str]:
    """Run the cases with both codes, turn by turn, and give a line of a table for each column.

    :param checkout: root of the older code
    :param what: the module of ``benchmarks`` that has the cases
    :param names: of the cases
    :param rounds: turns of each code in a process
    :param starts: processes of each code
    """
    roots = {"now": ROOT, "before": checkout.resolve()}
    found: dict[str, dict[str, Rounds]] = {name: {code: [] for code in roots} for name in names}
    for start in range(starts):
        with ExitStack() as stack:
            codes = {code: stack.enter_context(process(root, what)) for code, root in roots.items()}
            for name in names:
                for index in range(rounds):
                    for code in list(codes)[:: 1 if index % 2 == 0 else -1]:
                        found[name][code].append(turn(codes[code], name))
                if start == starts - 1:
                    yield from lines(what, name, found[name])


def process(root: Path, what: str) -> subprocess.Popen[str]:
    """Start a process with the code of one checkout; it ends when its standard input is closed."""
    # Here, since the other checkout, which runs this module too, may not have it.
    from sb3_moe.study.engine import KEPT_MEMORY

    own = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **KEPT_MEMORY}
    environment = os.environ | own | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'envs'}"}
    command = [sys.executable, "-c", CHILD, str(ROOT), what]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=root, env=environment, **pipes)


def turn(child: subprocess.Popen[str], name: str) -> dict[str, float]:
    """Let a process take one turn in a case, and return its seconds."""
    print(name, file=child.stdin, flush=True)
    assert child.stdout is not None
    seconds: dict[str, float] = json.loads(child.stdout.readline())
    return seconds


def answer(what: str) -> None:
    """Print the seconds of one round for each case that the input names, in a child process."""
    th.set_num_threads(1)
    benchmark = importlib.import_module(f"benchmarks.{what}")
    for name, turns in itertools.groupby(sys.stdin, key=str.strip):
        race = benchmark.race(name)
        for _ in turns:
            print(json.dumps(race.round()), flush=True)


def lines(what: str, name: str, found: Mapping[str, Rounds]) -> Iterator[str]:
    """Give a case's lines: each column with this code, with the older code, and their ratio."""
    benchmark = importlib.import_module(f"benchmarks.{what}")
    now, before = (benchmark.columns(name, by_name(found[code])) for code in ("now", "before"))
    for column, values in now.items():
        cells = [spread(each) for each in (values, before[column], ratios(values, before[column]))]
        bound = benchmark.bound(name, column)
        yield f"| {name}: {column} | {' | '.join(cells)} | {'' if bound is None else bound} |"


def spread(values: list[float]) -> str:
    """Return the median and, in brackets, the quartiles."""
    low, middle, high = (f"{x:,.0f}" if x >= 100 else f"{x:.2f}" for x in quartiles(values))
    return f"{middle} ({low} to {high})"


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    cases: Mapping[str, Any] = importlib.import_module(f"benchmarks.{options.what}").CASES
    names = [name for name in cases if options.only in name]
    print("| case: column | now | before | now / before | at least |\n|---|---|---|---|---|")
    rounds, starts = options.rounds, options.starts
    for line in compare(options.checkout, options.what, names, rounds=rounds, starts=starts):
        print(line, flush=True)


if __name__ == "__main__":
    main()
