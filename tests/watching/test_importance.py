"""The table of returns without each expert."""

import arena
import numpy as np
import shown

from sb3_moe.watching import expert_importance


def test_the_table_has_a_row_for_each_expert_and_deviations_over_episodes():
    model = shown.agent()
    found = expert_importance(model, episodes=3, deterministic=False)
    assert found.returns.shape == (4, 2, 3)
    assert found.rows == ["all experts", "without 0", "without 1", "without 2"]
    mean, deviation = found.returns[0, 1].mean(), found.returns[0, 1].std()
    # Their returns lie between 1 and 10.
    assert found.cells()[0][1] == f"{mean:.2f} ± {deviation:.2f}"
    again = expert_importance(model, episodes=3, deterministic=False)
    np.testing.assert_array_equal(found.returns, again.returns)
    assert found.to_markdown().count("\n") == 5


def test_the_table_is_of_the_network_that_acts():
    model = arena.make("DQN", num_experts=2, net_arch=[4])
    found = expert_importance(model, arena.default_env("DQN", "MoeMlpPolicy"), episodes=2)
    assert found.network == "qf"


def test_heads_of_tasks_beside_experts_count_by_their_own_name_alone():
    model = shown.agent(head_router="task")  # three experts, and a head for each of two tasks
    found = expert_importance(model, episodes=2)
    assert (found.network, found.rows[-1]) == ("pi", "without 2")
    assert expert_importance(model, network="pi.head", episodes=2).rows[-1] == "without 1"
    assert [*model.policy.mixtures("pi")] == ["pi.middle"]
    alone = shown.agent(placement="none", head_router="task", num_experts=None)
    assert [*alone.policy.mixtures("pi")] == ["pi.head"]
