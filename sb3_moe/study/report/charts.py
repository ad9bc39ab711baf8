"""What the page's charts show, as plain values: the script on the page draws them.

Shapes: K evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from sb3_moe.study.report.figures import architectures, looks_of, sequences
from sb3_moe.study.report.measures import MEASURES, WHOLE, measure, shown
from sb3_moe.study.report.references import References
from sb3_moe.study.report.runs import Array, Run
from sb3_moe.study.report.tables import order_as_text
from sb3_moe.study.spec.architectures import heading, titles

#: The page stays below 3 MB: a study with more values has some of its evaluations left out.
MOST_VALUES = 250_000

#: What is measured of a network while it is trained, over its layers or towers.
INSIDES = {
    "dormant": "Dormant neurons, share of all",
    "effective_rank": "Effective rank of features",
    "stable_rank": "Stable rank of features",
    "weight_norm": "Size of the weights",
    "weight_change": "Change of the weights since the last look",
    "gradient_norm": "Size of the gradient",
    "zero_gradients": "Share of gradients that are zero",
}

# Steps and values of a run; nothing where it has none.
Curve = tuple[Any, Array]
Take = Callable[[Run], Curve | None]
Values = dict[str, Any]


def charts(runs: Sequence[Run], references: References) -> Values:
    """Give everything that is drawn, with a curve or a dot for each network and seed.

    :param references: what returns are compared with
    """
    values = sum(len(r.steps) * (3 * len(r.cell.games) + len(INSIDES)) for r in runs)
    drawer = _Drawer(runs, references, -(-values // MOST_VALUES))
    return {
        "networks": networks(architectures(runs)),
        "seeds": sorted({run.cell.seed for run in runs}),
        "every": drawer.every,
        "lines": [each for each in drawer.lines() if each["panels"]],
        "dots": [each for each in drawer.dots() if each["panels"]],
    }


def curves(runs: Sequence[Run], references: References) -> list[Values]:
    """List what the charts show while training goes on, but returns: these are in a file already.

    :param references: what returns are compared with
    :return: a row for each measure, setting, task, run and step
    """
    names = architectures(runs)
    return [
        {
            "measure": measure["key"],
            "regime": panel["regime"],
            "order": panel["order"],
            "game": panel["task"] or WHOLE,
            "architecture": names[network],
            "seed": seed,
            "step": step,
            "value": value,
        }
        for measure in list(_Drawer(runs, references).lines())[1:]
        for panel in measure["panels"]
        for network, seed, steps, values in panel["curves"]
        for step, value in zip(panel["steps"][steps], values, strict=True)
        if value is not None
    ]


def networks(names: Sequence[str]) -> list[Values]:
    """Name each network as readers know it, with the look of its lines."""
    called = titles(names)
    return [
        {"name": called[name], "colour": look.colour, "dashes": look.dashes}
        for name, look in looks_of(names).items()
    ]


class _Drawer:
    """Makes the panels of all measures.

    :param runs: of a study
    :param references: what returns are compared with
    :param every: how many evaluations one is drawn of
    """

    def __init__(self, runs: Sequence[Run], references: References, every: int = 1) -> None:
        self.every = every
        self._references = references
        self._games = runs[0].cell.games
        self._number = {name: k for k, name in enumerate(architectures(runs))}
        self._settings = [
            [run for run in runs if (run.cell.regime, run.cell.order) == setting]
            for setting in sequences(runs)
        ]

    def lines(self) -> Iterator[Values]:
        """Give what changes while training goes on."""
        random = self._references.random
        yield self._by_task("return", "Return", Run.returns, "random policy", random)
        yield self._by_task(
            "normalised_return",
            "Normalised return: 0 is the random policy, 1 is Dense from scratch",
            self._normalised,
            "Dense from scratch",
            dict.fromkeys(self._games, 1.0),
        )
        yield self._by_task("success", "Success, share of episodes", Run.success)
        for key, name in INSIDES.items():
            panels = [
                {**_where(runs), "level": None, **self._curves(runs, partial(Run.inside, kind=key))}
                for runs in self._settings
            ]
            yield _measure(key, name, panels)

    def dots(self) -> Iterator[Values]:
        """Give what each run has one value of."""
        for key, each in MEASURES.items():
            panels = [panel for runs in self._settings for panel in self._dotted(key, runs)]
            name = key.replace("_", " ").capitalize()
            yield {"key": key, "name": name, "note": each.meaning, "panels": panels}

    def _by_task(
        self,
        key: str,
        name: str,
        take: Callable[[Run, str], Array],
        level: str = "",
        levels: Mapping[str, float] = MappingProxyType({}),
    ) -> Values:
        """Give a panel for each setting and task.

        :param take: gives a run's values at its evaluations
        :param level: what curves are compared with
        :param levels: its height, by task
        """
        panels = [
            {
                **_where(runs, game),
                "level": [level, levels[game]] if np.isfinite(levels.get(game, np.nan)) else None,
                **self._curves(runs, partial(_at_evaluations, take, game)),
            }
            for runs in self._settings
            for game in self._games
        ]
        return _measure(key, name, panels)

    def _curves(self, runs: Sequence[Run], take: Take) -> Values:
        """Give network, seed, which of the lists of steps, and values, of each run that has any."""
        curves, steps = list[list[Any]](), list[list[int]]()
        for run in runs:
            found = take(run)
            if found is None or not np.isfinite(found[1]).any():
                continue
            # The last is kept, whatever is left out before it.
            kept = slice((len(found[1]) - 1) % self.every, None, self.every)
            own = [int(step) for step in found[0][kept]]
            if own not in steps:
                steps.append(own)
            number = self._number[run.cell.architecture.name]
            curves.append([number, run.cell.seed, steps.index(own), _numbers(found[1][kept])])
        return {"steps": steps, "curves": curves}

    def _normalised(self, run: Run, game: str) -> Array:
        seed = run.cell.seed
        values = [self._references.normalised(float(v), seed, game) for v in run.returns(game)]
        return np.array(values)

    def _dotted(self, key: str, runs: Sequence[Run]) -> Iterator[Values]:
        """Give network, seed and value of each run that has one, task by task."""
        dots: dict[str, list[list[Any]]] = {}
        for run in runs:
            number = self._number[run.cell.architecture.name]
            for game, value in measure(key, run, self._references).items():
                if np.isfinite(value):
                    dot = [number, run.cell.seed, *_numbers([value])]
                    dots.setdefault(game, []).append(dot)
        for game, found in dots.items():
            yield {**_where(runs, shown(game)), "dots": found}


def _measure(key: str, name: str, panels: Sequence[Values]) -> Values:
    """Leave out the panels that no run has anything for."""
    return {"key": key, "name": name, "panels": [panel for panel in panels if panel["curves"]]}


def _where(runs: Sequence[Run], game: str = "") -> Values:
    """Say which runs a panel is of, and when they were trained on its task."""
    cell = runs[0].cell
    return {
        "regime": cell.regime,
        "order": order_as_text(cell.order),
        "setting": heading(cell.regime, cell.order),
        "task": game,
        # Where tasks have no order all are trained all the time.
        "blocks": runs[0].blocks(game) if cell.order else [],
    }


def _at_evaluations(take: Callable[[Run, str], Array], game: str, run: Run) -> Curve:
    return run.steps, take(run, game)


def _numbers(values: Any) -> list[float | None]:
    """Write four digits, and nothing for what isn't a number: JSON has no word for it."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]
