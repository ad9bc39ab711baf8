"""Which cases of a costly product of arguments are asked before a change lands."""

from itertools import product
from types import SimpleNamespace

import pytest
from covering import covering, leave_the_rest


def cases(**arguments):
    names = list(arguments)
    return {
        "-".join(map(str, values)): dict(zip(names, values, strict=True))
        for values in product(*arguments.values())
    }


def test_each_value_of_each_argument_is_met_and_no_case_is_chosen_in_vain():
    grid = cases(algorithm=["PPO", "SAC", "DQN", "TD3"], placement=["final", "big"], seed=[0, 1])
    chosen = covering(grid)
    for argument, values in {"algorithm": 4, "placement": 2, "seed": 2}.items():
        assert len({grid[case][argument] for case in chosen}) == values
    assert len(chosen) == 4, "as many as the longest argument has values"


def test_tests_of_the_same_product_meet_values_in_different_company():
    grid = cases(algorithm="abcdef", placement="uvwxyz")
    met = [
        frozenset(
            case.partition("[")[2]
            for case in covering({f"{test}[{each}]": grid[each] for each in grid})
        )
        for test in ("test_one", "test_another", "test_a_third")
    ]
    assert len(set(met)) == 3
    assert len(frozenset.union(*met)) > 10


class Item:
    """One case of a test, as pytest collects it."""

    def __init__(self, nodeid, marks, **params):
        self.nodeid, self.marks, self.callspec = nodeid, set(marks), SimpleNamespace(params=params)

    def get_closest_marker(self, name):
        return name if name in self.marks else None

    def add_marker(self, mark):
        self.marks.add(mark.name)


def collected(test, *marks):
    return [Item(f"{test}[{a}-{p}]", marks, a=a, p=p) for a in "xyz" for p in (1, 2)]


@pytest.mark.parametrize(("marks", "left"), [(["covering"], 3), ([], 6), (["covering", "full"], 0)])
def test_what_is_left_out_of_a_marked_test_is_full_and_of_no_other(marks, left):
    items = collected("tests/a.py::test_one", *marks)
    leave_the_rest(items)
    assert sum("full" not in item.marks for item in items) == left
