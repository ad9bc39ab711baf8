"""When ReDo's callback can't treat: said before training, or due again."""

import arena
import pytest
from toy import toy_vec_env

from sb3_moe import presets
from sb3_moe.callbacks import ReDoCallback


class Noting(ReDoCallback):
    """Note when it is asked, and whether it could."""

    def __init__(self, every, **kwargs):
        super().__init__(every, **kwargs)
        self.asked = []

    def treat(self):
        done = super().treat()
        self.asked.append((self.model.num_timesteps, done))
        return done


@pytest.mark.parametrize("algorithm", ["SAC", "DQN"])
def test_by_gradients_it_waits_for_the_first_update_of_a_learn(algorithm):
    model = arena.make(algorithm, "MoeMlpPolicy", net_arch=[8], placement="none")
    model.learn(24)
    for parameter in model.policy.parameters():  # as after loading a file
        parameter.grad = None
    callback = Noting(8, criterion="gradient")
    model.learn(24, callback=callback, reset_num_timesteps=False)
    assert callback.asked[-1][1] is True
    model.learn(24, callback=(again := Noting(8, criterion="gradient")), reset_num_timesteps=False)
    # What was due as the last training ended is done once gradients are known.
    assert [done for _, done in again.asked][:2] == [algorithm == "DQN", True]


@pytest.mark.parametrize(
    "options", [presets.PACO, {"net_arch": [], "placement": "none"}], ids=["PaCo", "no layer"]
)
def test_a_policy_without_a_layer_to_treat_is_refused_before_training(options):
    model = arena.make("PPO", "MoeMultiInputPolicy", toy_vec_env((0, 1, 2)), **options)
    with pytest.raises(ValueError, match="`policy` must have a hidden layer between two linear"):
        model.learn(10_000, callback=ReDoCallback(1_000_000))


def test_trpos_actor_keeps_no_gradient_to_judge_by():
    pytest.importorskip("sb3_contrib")
    model = arena.make("TRPO", "MoeMlpPolicy", net_arch=[8], placement="none")
    with pytest.raises(ValueError, match=r"ReDoCallback\(criterion='gradient'\) can't be used"):
        model.learn(8, callback=ReDoCallback(8, criterion="gradient"))
