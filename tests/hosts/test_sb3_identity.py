"""Learning the smallest task, as in SB3's ``test_identity``; ``benchmarks.identity`` measures."""

import asked
import guests
from stable_baselines3.common.envs import (
    IdentityEnv,
    IdentityEnvBox,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

ON_POLICY = {
    "number": lambda: IdentityEnv(2, ep_length=20),
    "choices": lambda: IdentityEnvMultiDiscrete(2, ep_length=20),
}
REPLAY = {"buffer_size": 400, "batch_size": 32, "train_freq": 4, "gradient_steps": 3}
# Only the next reward counts, and rates are for so few steps.
SHORT = {
    "A2C": {"n_steps": 16, "learning_rate": 3e-3},
    "PPO": {"n_steps": 64, "batch_size": 32, "n_epochs": 4},
    "DQN": {**REPLAY, "exploration_fraction": 0.5, "target_update_interval": 32},
    "SAC": {**REPLAY, "learning_starts": 32},
}
STEPS = {"A2C": 640, "PPO": 512, "DQN": 200, "SAC": 180}


def returned(algorithm, placement, env, seed=0):
    """Learn shortly, and return how much of the reward is had."""
    env.action_space.seed(seed)
    arguments = {"learning_rate": 1e-2, "gamma": 0.0, **SHORT[algorithm]}
    model = guests.make(
        algorithm, placement, env=env, model=arguments, net_arch=[32], seed=seed
    ).learn(STEPS[algorithm])
    return evaluate_policy(model, Monitor(env), n_eval_episodes=2)[0] / env.ep_length


@asked.over("identity", guests.ON_POLICY, env=ON_POLICY)
def test_it_learns_to_say_what_it_sees(algorithm, placement, env):
    assert returned(algorithm, placement, env()) >= 0.9


@asked.over("identity", ["PPO"])
def test_it_learns_to_say_which_bits_it_sees(algorithm, placement):
    assert returned(algorithm, placement, IdentityEnvMultiBinary(2, ep_length=20)) >= 0.9


@asked.over("identity", ["DQN"])
def test_a_q_network_learns_to_say_which_number_it_sees(algorithm, placement):
    assert returned(algorithm, placement, ON_POLICY["number"]()) >= 0.9


@asked.over("identity", ["SAC"])
def test_an_actor_learns_to_say_where_it_is(algorithm, placement):
    assert returned(algorithm, placement, IdentityEnvBox(eps=0.5, ep_length=20)) >= 0.9
