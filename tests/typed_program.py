"""A user's program in types as strict as mypy has them; tests/test_typing.py checks and runs it."""

import tempfile
from typing import assert_type

import torch as th
from stable_baselines3 import PPO

import sb3_moe
from sb3_moe.callbacks import MultiTaskEvalCallback, PlasticityCallback, RoutingCallback
from sb3_moe.layers import MoELayer, Routing
from sb3_moe.policies.on_policy import MoeMlpPolicy


class FirstExpert(MoELayer):
    """A router of a user's own: the first expert serves every token."""

    def route(self, x: th.Tensor, router_x: th.Tensor) -> tuple[th.Tensor, Routing]:
        """Give the first expert the weight 1."""
        gates = x.new_zeros((*x.shape[:-1], self.num_experts))
        gates[..., 0] = 1.0
        return self.combine(x, gates)


def main() -> th.Tensor:
    """Train a little, look inside, and return the load of each expert."""
    env = sb3_moe.make_multitask_vec_env("Classic/CartPole4", n_envs=4, seed=0)
    model = PPO("MoeMlpPolicy", env, n_steps=8, batch_size=16, n_epochs=1, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        model.learn(
            32,
            callback=[
                MultiTaskEvalCallback(1_000, n_eval_episodes=1, log_path=folder),
                PlasticityCallback(1_000, ntk_size=0, probe_size=8),
                RoutingCallback(1_000, probe_size=8),
            ],
        )
    budget = sb3_moe.describe(model)
    assert_type(budget.total.parameters, int)
    load_E = sb3_moe.routing(model, env.reset())["pi.middle"].load_E
    assert_type(load_E, th.Tensor)
    assert isinstance(model.policy, MoeMlpPolicy)
    assert_type(model.policy.moe_layers(), dict[str, MoELayer])
    return sb3_moe.routing(model.policy, env.reset())["vf.middle"].load_E


if __name__ == "__main__":
    print(main())
