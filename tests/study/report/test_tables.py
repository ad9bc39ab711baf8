import math

import pytest
from made_up_study import GAMES, cell, run

from sb3_moe.study.report.runs import Run
from sb3_moe.study.report.tables import (
    order_as_text,
    order_of,
    read_csv,
    summary,
    to_csv,
    write_csv,
)


def test_a_run_that_stopped_early_leaves_no_interval_and_stops_no_table():
    whole, cut = (run(cell("crl", GAMES, "dense", seed)) for seed in (0, 1))
    cut = Run(cut.cell, {name: values[:-3] for name, values in cut.scores.items()}, {})
    rows = {row["game"]: row for row in summary([whole, cut], dict.fromkeys(GAMES, 1.0))}
    assert rows[GAMES[0]]["low"] == rows[GAMES[0]]["high"] == 10.0
    assert all(math.isnan(rows[GAMES[1]][bound]) for bound in ("low", "high"))


@pytest.mark.parametrize(
    ("order", "text"),
    [
        ((), ""),
        (("Breakout", "SpaceInvaders"), "Breakout SpaceInvaders"),
        (("Foo(swap=[0, 1])", 'a"b'), '"Foo(swap=[0, 1])" "a""b"'),
    ],
)
def test_an_order_is_read_as_it_was_written_and_plain_names_stand_side_by_side(order, text):
    assert order_as_text(order) == text
    assert order_of(text) == list(order)


ANY = ["", " ", "a b", "a,b", 'a"b', "a\nb", "a\rb", "a\r\nb", '"\n ,"', "\n", "\r", "\t"]


@pytest.mark.parametrize("name", ANY)
def test_names_of_any_characters_are_read_from_orders_and_tables_as_they_were(tmp_path, name):
    for order in ([name], [name, "Breakout"], ["Breakout", name, name]):
        assert order_of(order_as_text(order)) == order
        rows = [{"order": order_as_text(order), "game": name, "seeds": "5"}] * 2
        write_csv(tmp_path / "table.csv", rows)
        assert read_csv(tmp_path / "table.csv") == rows


def test_a_table_without_rows_is_empty_and_one_with_rows_has_a_line_each():
    assert to_csv([]) == ""
    assert to_csv([{"a": 1, "b": 0.5}, {"b": 1e-7, "a": "x y"}]) == "a,b\n1,0.5\nx y,1e-07\n"
