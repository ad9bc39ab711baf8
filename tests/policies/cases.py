"""The product of algorithms, aliases, placements, routers, tokens, and covers of it."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

import arena
from covering import fewest

from sb3_moe.layers.registry import ROUTERS
from sb3_moe.policies.options import takes
from sb3_moe.policies.placements import PLACEMENTS, TOKENS

# One that goes by a belief needs a VecBelief: test_policies_with_belief.py has its cases.
ROUTERS_OF_ANY = [name for name in ROUTERS if name != "belief"]
# Where experts have tokens to choose among, in each of their layers.
CHOOSES = (("conv", "middle"), ("feature", "middle"))


class Case(NamedTuple):
    """One way to build a policy."""

    algorithm: str
    alias: str
    placement: str
    router: str
    tokens: str

    def __str__(self) -> str:
        return "-".join(self)


def is_valid(case: Case) -> bool:
    """Say whether a combination can work; without experts no other option has an effect."""
    if case.placement == "none":
        return (case.router, case.tokens) == ("soft", "sample")
    if case.router == "expert_choice" and (case.tokens, case.placement) not in CHOOSES:
        return False
    has_map = arena.kind_of(case.alias) != "Mlp" and "Lstm" not in case.alias
    return case.tokens == "sample" or (
        has_map and PLACEMENTS[case.placement].hidden not in (None, "one")
    )


def every_case() -> list[Case]:
    """Return the whole product of what is valid."""
    cases = (
        Case(*pair, *rest)
        for pair, rest in product(arena.PAIRS, product(PLACEMENTS, ROUTERS_OF_ANY, TOKENS))
    )
    return [case for case in cases if is_valid(case)]


def pairwise(cases: Sequence[Case]) -> list[Case]:
    """Return few cases that hold every pair of values found in any.

    :param cases: to choose from
    """
    return fewest({case: set(combinations(enumerate(case), 2)) for case in cases})


def each_placement(cases: Sequence[Case]) -> list[Case]:
    """Return few cases that hold every policy and every placement of an algorithm, every router and
    kind of token at a placement, and every router behind a kind of policy.

    :param cases: to choose from
    """
    return fewest(
        {
            case: {
                case[:2],
                (case.algorithm, case.placement),
                case[2:4],
                (case.tokens, case.placement),
                (case.router, arena.kind_of(case.alias), case.placement == "big"),
            }
            for case in cases
        }
    )


def each_value(cases: Sequence[Case]) -> list[Case]:
    """Return few cases that hold every value found in any.

    :param cases: to choose from
    """
    return fewest({case: {*enumerate(case)} for case in cases})


def options_of(case: Case) -> dict[str, Any]:
    """Return a case's policy arguments, each option that it allows away from its default."""
    if case.placement == "none":
        sees = {"task_input": "none"} if arena.kind_of(case.alias) == "MultiInput" else {}
        return {"placement": "none", "net_arch": [8], **sees}
    wanted = {
        "top_k": 2,
        "num_slots": 2,
        "normalize_router": True,
        "balance_coef": 0.02,
        "importance_coef": 0.03,
        "z_coef": 0.01,
        "bias_rate": 0.01,
    }
    if case.algorithm not in arena.ON_POLICY:
        wanted["router_noise"] = 0.1
    options = {name: v for name, v in wanted.items() if takes(ROUTERS.find(case.router), name)}
    if case.algorithm == "TRPO":
        options = {name: v for name, v in options.items() if not name.endswith("_coef")}
    if case.placement != "final":
        options["expert_width"] = 6
    if case.router != "task":
        options["num_experts"] = 3
    if arena.kind_of(case.alias) == "MultiInput" and case.router != "uniform":
        options["task_input"] = "router"
    return {
        "placement": case.placement,
        "router": case.router,
        "tokens": case.tokens,
        "net_arch": [8],
        **options,
    }


def make(case: Case, **rest: Any) -> Any:
    """Build the model; where the task router needs an id in a Box, the Box ends in a one-hot.

    :param case: of the policy
    :param rest: more arguments of ``arena.make``
    """
    options = options_of(case)
    num_tasks = 0
    if ROUTERS.find(case.router).sees == "task" and arena.kind_of(case.alias) != "MultiInput":
        num_tasks = arena.NUM_TASKS
        options["features_extractor_kwargs"] = {"num_tasks": num_tasks}
    env = arena.default_env(case.algorithm, case.alias, num_tasks)
    if "Lstm" in case.alias:
        options["lstm_hidden_size"] = 12
    return arena.make(case.algorithm, case.alias, env, **options, **rest)
