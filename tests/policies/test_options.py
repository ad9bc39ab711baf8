"""The options: each rule with its text, what is valid together, and a dict per tower."""

from itertools import product

import pytest

from sb3_moe.layers.registry import ROUTERS
from sb3_moe.policies.option_checks import why_invalid
from sb3_moe.policies.options import DEFAULTS, MoEOptions, per_tower
from sb3_moe.policies.placements import PLACEMENTS, TOKENS


def test_the_defaults_are_a_soft_mixture_in_the_middle():
    options = MoEOptions()
    assert (options.placement, options.router, options.tokens) == ("middle", "soft", "sample")
    assert options.task_input == "both"
    assert (options.num_experts, options.top_k) == (None, 1)
    assert options.aux == (0.0, 0.0, 0.0)


BAD_VALUES = [
    (
        {"placement": "midle"},
        r"`placement` must be one of \['none', .*'big'\], got 'midle'",
    ),
    ({"router": "hard"}, r"`router` must be one of \['soft', .*'random'\], got 'hard'"),
    ({"tokens": "pixel"}, r"`tokens` must be one of \['sample', 'conv', 'feature'\], got 'pixel'"),
    ({"task_input": "all"}, r"`task_input` must be one of \['both', .*'none'\], got 'all'"),
    ({"num_experts": 0}, "`num_experts` must be at least 1, got 0"),
    ({"num_slots": -1}, "`num_slots` must be at least 1, got -1"),
    ({"expert_width": 0}, "`expert_width` must be at least 1, got 0"),
    ({"router": "top_k", "top_k": 0}, "`top_k` must be at least 1, got 0"),
    ({"router": "top_k", "top_k": 5}, r"`top_k` must be in \[1, num_experts=4\], got 5"),
    (
        {"router": "top_k", "top_k": 3, "num_experts": 2},
        r"`top_k` must be in \[1, num_experts=2\], got 3",
    ),
    ({"router_noise": -0.1}, "`router_noise` must be at least 0 and finite, got -0.1"),
    ({"balance_coef": float("nan")}, "`balance_coef` must be at least 0 and finite, got nan"),
    ({"z_coef": float("inf")}, "`z_coef` must be at least 0 and finite, got inf"),
    ({"router": "top_k", "bias_rate": -1.0}, "`bias_rate` must be at least 0"),
    ({"importance_coef": -1}, "`importance_coef` must be at least 0 and finite, got -1"),
    (
        {"placement": "final", "expert_width": 8},
        "`expert_width` needs experts with a hidden layer, got `placement`='final'",
    ),
    (
        {"tokens": "conv", "placement": "big"},
        "`tokens`='conv' needs a layer whose input is the feature map, .* got 'big'",
    ),
    ({"tokens": "feature", "placement": "final"}, "`tokens`='feature' needs a layer .* 'final'"),
    (
        {"router": "expert_choice"},
        "`router`='expert_choice' chooses among the tokens of one sample, .* got 'sample'",
    ),
    (
        {"router": "expert_choice", "tokens": "conv", "placement": "all"},
        "`router`='expert_choice' needs `placement`='middle', got 'all'",
    ),
    (
        {"router": "soft", "top_k": 2},
        r"`top_k`=2 needs `router` to be one of \['expert_choice', 'top_k'\], got 'soft'",
    ),
    ({"router": "task", "num_slots": 2}, r"`num_slots`=2 needs .*\['random', 'soft'\], got 'task'"),
    ({"router": "uniform", "normalize_router": True}, "`normalize_router`=True needs .* 'uniform'"),
    ({"router": "random", "router_noise": 0.1}, "`router_noise`=0.1 needs `router` .* 'random'"),
    ({"router": "task", "balance_coef": 0.1}, "`balance_coef`=0.1 needs `router` .* got 'task'"),
    ({"router": "uniform", "z_coef": 0.1}, "`z_coef`=0.1 needs `router` .* got 'uniform'"),
    (
        {"router": "uniform", "task_input": "router"},
        "`task_input`='router' shows the task id to routers only, .*'uniform' looks at nothing",
    ),
    (
        {"router": "task", "task_input": "none"},
        "`task_input` must be 'both' or 'router' with `router`='task', .* got 'none'",
    ),
    (
        {"router": "task", "task_input": "experts"},
        "`task_input` must be 'both' or 'router' with `router`='task', .* got 'experts'",
    ),
    ({"router": "soft", "bias_rate": 0.1}, r"`bias_rate`=0.1 needs .*\['top_k'\], got 'soft'"),
]
WRONG_TYPES = [
    ({"num_experts": 2.5}, "`num_experts` must be an int, got 2.5"),
    ({"num_experts": True}, "`num_experts` must be an int, got True"),
    ({"top_k": None}, "`top_k` must be an int, got None"),
    ({"num_slots": "4"}, "`num_slots` must be an int, got '4'"),
    ({"expert_width": 8.0}, "`expert_width` must be an int, got 8.0"),
    ({"balance_coef": "0.1"}, "`balance_coef` must be a number, got '0.1'"),
    ({"z_coef": True}, "`z_coef` must be a number, got True"),
    ({"normalize_router": 1}, "`normalize_router` must be a bool, got 1"),
]


@pytest.mark.parametrize(("options", "message"), BAD_VALUES)
def test_a_bad_value_names_the_option_the_rule_and_the_value(options, message):
    with pytest.raises(ValueError, match=message):
        MoEOptions(**options)


@pytest.mark.parametrize(("options", "message"), WRONG_TYPES)
def test_a_wrong_type_names_the_option_and_the_value(options, message):
    with pytest.raises(TypeError, match=message):
        MoEOptions(**options)


def test_an_option_under_none_is_still_checked():
    with pytest.raises(ValueError, match="`num_experts` must be at least 1"):
        MoEOptions(placement="none", num_experts=0)
    assert not MoEOptions(placement="none", num_experts=3).is_moe
    assert not MoEOptions(placement="none", router="uniform", task_input="router").is_moe


def test_the_valid_combinations_are_these():
    valid = {
        combination
        for combination in product(ROUTERS, TOKENS, PLACEMENTS)
        if why_invalid(*combination) is None and combination[2] != "none"
    }
    by_hand = {
        (router, "sample", placement)
        for router in ("soft", "top_k", "task", "embedding", "uniform", "random")
        for placement in ("middle", "final", "all", "body", "big")
    }
    by_hand |= {
        (router, tokens, placement)
        for router in ("soft", "top_k", "task", "embedding", "uniform", "random")
        for tokens in ("conv", "feature")
        for placement in ("middle", "all")
    }
    by_hand |= {("expert_choice", "conv", "middle"), ("expert_choice", "feature", "middle")}
    assert valid == by_hand


@pytest.mark.parametrize(("router", "tokens", "placement"), [*product(ROUTERS, TOKENS, PLACEMENTS)])
def test_the_table_and_the_constructor_agree(router, tokens, placement):
    reason = why_invalid(router, tokens, placement)
    if reason is None:
        MoEOptions(router=router, tokens=tokens, placement=placement)
    else:
        with pytest.raises(ValueError) as error:  # noqa: PT011  # the text is compared below
            MoEOptions(router=router, tokens=tokens, placement=placement)
        assert str(error.value) == reason


def test_the_task_router_has_an_expert_per_task():
    options = MoEOptions(router="task")
    assert options.resolve_num_experts(3) == 3
    assert MoEOptions(router="task", num_experts=3).resolve_num_experts(3) == 3
    with pytest.raises(ValueError, match="`router`='task' needs a task id in the observation"):
        options.resolve_num_experts(0)
    with pytest.raises(ValueError, match=r"must be the number of tasks, 3, .* got 2"):
        MoEOptions(router="task", num_experts=2).resolve_num_experts(3)


def test_other_routers_have_four_experts_or_as_many_as_asked():
    assert MoEOptions().resolve_num_experts(3) == 4
    assert MoEOptions(num_experts=7).resolve_num_experts(3) == 7


@pytest.mark.parametrize(
    ("task_input", "experts", "router"),
    [
        ("both", True, True),
        ("router", False, True),
        ("experts", True, False),
        ("none", False, False),
    ],
)
def test_task_input_says_who_sees_the_id(task_input, experts, router):
    options = MoEOptions(task_input=task_input)
    assert (options.experts_see_task, options.router_sees_task) == (experts, router)


def test_a_dict_gives_each_tower_its_own_and_the_others_the_default():
    options = per_tower(
        {"placement": {"pi": "big", "vf": "none"}, "router": {"vf": "top_k"}, "num_experts": 3},
        ("pi", "vf"),
    )
    assert options["pi"] == MoEOptions(placement="big", num_experts=3)
    assert options["vf"] == MoEOptions(placement="none", router="top_k", num_experts=3)


def test_an_unknown_option_is_a_type_error_that_lists_the_known():
    message = r"unknown option 'n_experts'; the options are \['action_dims', 'balance"
    with pytest.raises(TypeError, match=message):
        per_tower({"n_experts": 3}, ("pi", "vf"))


def test_an_unknown_tower_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match=r"`placement` may name the towers \['pi', 'qf'\], got "):
        per_tower({"placement": {"vf": "big"}}, ("pi", "qf"))


def test_a_bad_value_for_one_tower_is_an_error():
    with pytest.raises(ValueError, match="`top_k` must be at least 1, got 0"):
        per_tower({"router": "top_k", "top_k": {"pi": 0}}, ("pi", "vf"))


def test_every_option_has_a_default():
    assert set(DEFAULTS) == set(MoEOptions.__dataclass_fields__)
