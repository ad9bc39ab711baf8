"""The options: each rule with its text, what is valid together, and a dict per network."""

from dataclasses import replace
from itertools import product

import arena
import pytest
import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_moe.layers.registry import ROUTERS
from sb3_moe.policies.architect import Architect
from sb3_moe.policies.moe_network import Layout
from sb3_moe.policies.options import MOST_EXPERTS, MoEOptions, per_network
from sb3_moe.policies.placements import PLACEMENTS, TOKENS

BAD_VALUES = [
    ({"placement": "midle"}, r"`placement` must be one of \['none', .*'big'\], got 'midle'"),
    ({"router": "hard"}, r"`router` must be one of \['soft', .*'random'\].*, got 'hard'"),
    ({"tokens": "pixel"}, r"`tokens` must be one of \['sample', 'conv', 'feature'\], got 'pixel'"),
    ({"num_experts": 0}, "`num_experts` must be at least 1, got 0"),
    ({"balance_coef": float("nan")}, "`balance_coef` must be at least 0 and finite, got nan"),
    ({"placement": "final", "expert_width": 8}, "`expert_width` .* layer, got `placement`='final'"),
    ({"tokens": "conv", "placement": "big"}, "`tokens`='conv' .* is the feature map, .* got 'big'"),
    ({"router": "soft", "top_k": 2}, r"`top_k`=2 needs `router` .* \['belief', .* 'soft'"),
    ({"router": "task", "task_input": "experts"}, "`task_input` must be 'both' .* got 'experts'"),
    ({"router": "soft", "bias_rate": 0.1}, r"`bias_rate`=0.1 needs .*\['top_k'\], got 'soft'"),
    (
        {"num_experts": MOST_EXPERTS + 1},
        f"`num_experts` must be at most {MOST_EXPERTS}, got {MOST_EXPERTS + 1}",
    ),
    ({"router": "top_k", "router_kwargs": {"top_k": 2}}, "`top_k` is an option of the .* inside"),
    ({"expert": "mlpp"}, r"`expert` must be one of \['mlp', .*did you mean 'mlp'"),
    ({"head_router": "soft"}, r"`head_router` must be one of \['task', None\], got 'soft'"),
    ({"head_router": "task", "placement": "big"}, "`head_router`='task' .* got `placement`='big'"),
]
WRONG_TYPES = [
    ({"num_experts": 2.5}, "`num_experts` must be an int, got 2.5"),
    ({"balance_coef": "0.1"}, "`balance_coef` must be a number, got '0.1'"),
    ({"router_kwargs": {"hiden": [4]}}, r"SoftMoE, \[.*got 'hiden'; did you mean 'hidden'"),
    ({"expert_kwargs": {"depth": 2}}, r"`expert_kwargs` may hold .* of MLPExpert, \[\], got 'dep"),
    ({"router": nn.Linear}, "`router` must be a subclass of MoELayer, or name one, got"),
    ({"action_dims": 2}, "`action_dims` must be a list of whole numbers, got 2"),
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
    assert not MoEOptions(placement="none").is_moe
    assert MoEOptions(placement="none", head_router="task").is_moe


WITHOUT_EXPERTS = {
    "router": "top_k",
    "num_experts": 3,
    "tokens": "conv",
    "combine": "orthogonal",
    "freeze_idle": False,
    "match_scale": True,
    "expert": "linear",
    "router_noise": 0.1,
    "balance_coef": 0.1,
}


def test_an_option_without_effect_is_refused_where_no_network_has_experts():
    for name, value in WITHOUT_EXPERTS.items():
        with pytest.raises(ValueError, match=f"`{name}`=.* needs experts, got `placement`='none'"):
            per_network({"placement": "none", name: value}, ("pi", "vf"))
        if name not in ("freeze_idle", "match_scale"):  # which act on heads for tasks
            heads = {"placement": "final" if name != "tokens" else "none", "head_router": "task"}
            with pytest.raises(ValueError, match=f"`{name}`=.* needs experts, .*heads for tasks"):
                per_network(heads | {name: value}, ("pi", "vf"))
        if name != "tokens":  # which need a feature map
            per_network({"placement": {"pi": "none"}, name: value}, ("pi", "vf"))


MAP = Layout(x_dim=2 * 3 * 4, map_shape=(2, 3, 4), num_tasks=3)


def test_which_combinations_are_built_and_which_are_refused():
    for router, tokens, placement in product(ROUTERS, TOKENS, list(PLACEMENTS)[1:]):
        options = {"router": router, "tokens": tokens, "placement": placement}
        fits = tokens == "sample" or placement in ("middle", "all")
        if router == "expert_choice":
            fits = tokens != "sample" and placement == "middle"
        layout = replace(MAP, tells_task=router != "belief")
        dense = create_mlp(MAP.features_dim, 2, [8])
        if fits:
            made = Architect(MoEOptions(**options), layout).network(dense)
            assert made(th.zeros(2, MAP.features_dim)).shape == (2, 2), options
        else:
            with pytest.raises(ValueError, match=r"`(tokens|router)`="):
                Architect(MoEOptions(**options), layout).network(dense)


@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_hidden_layers_of_a_network_that_is_not_there_are_refused(algorithm):
    with pytest.raises(ValueError, match=r"`net_arch` must be a list of widths, .* got \{'qf'"):
        arena.make(algorithm, net_arch={"qf": [8]})


def test_routers_by_task_or_belief_need_one_and_have_an_expert_for_each_task():
    options = MoEOptions(router="task")
    assert options.resolve_num_experts(3) == 3
    assert MoEOptions(router="task", num_experts=3).resolve_num_experts(3) == 3
    with pytest.raises(ValueError, match="`router`='task' needs a task id in the observation"):
        options.check_tasks(0, tells_task=True)
    with pytest.raises(ValueError, match=r"needs the true task id, .* use `router`='belief'"):
        options.check_tasks(3, tells_task=False)
    for num_tasks in (0, 3):
        with pytest.raises(ValueError, match=r"`router`='belief' needs a belief .*VecBelief"):
            MoEOptions(router="belief").check_tasks(num_tasks, tells_task=True)
    with pytest.raises(ValueError, match=r"must be the number of tasks .* 3, .* got 2"):
        MoEOptions(router="task", num_experts=2).resolve_num_experts(3)


def test_a_dict_gives_each_network_its_own_and_the_others_the_default():
    options = per_network(
        {"placement": {"pi": "big", "vf": "none"}, "router": {"vf": "top_k"}, "num_experts": 3},
        ("pi", "vf"),
    )
    assert options["pi"] == MoEOptions(placement="big", num_experts=3)
    assert options["vf"] == MoEOptions(placement="none", router="top_k", num_experts=3)


def test_an_unknown_option_is_a_type_error():
    with pytest.raises(TypeError, match="unknown option 'n_experts'; the options are "):
        per_network({"n_experts": 3}, ("pi", "vf"))


def test_an_unknown_network_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match=r"`placement` may name the networks \['pi', 'qf'\], got "):
        per_network({"placement": {"vf": "big"}}, ("pi", "qf"))
