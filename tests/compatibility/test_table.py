"""What a placement can't do of what SB3's policies do is refused, and what it says helps."""

import arena
import models
import numpy as np
import pytest
import torch as th
from behaviors import CANNOT
from gymnasium import spaces


@pytest.mark.parametrize(
    ("exception", "attempt"),
    [
        pytest.param(each, attempt, id=f"{each.behavior}-{each.placement}-{name}")
        for each in CANNOT
        for name, attempt in each.attempts.items()
    ],
)
def test_what_a_placement_cannot_do_is_refused_in_one_line(exception, attempt):
    with pytest.raises(exception.kind, match=exception.error) as refusal:
        attempt()
    assert "\n" not in str(refusal.value)


# What all of ours do otherwise.


def test_a_dict_is_flattened_where_sb3_refuses_it():
    env = arena.Arena(arena.with_task(arena.FLAT))
    arena.train(models.make("PPO", "middle", env=env))
    with pytest.raises(ValueError, match="You must use `MultiInputPolicy`"):
        arena.make("PPO", "MlpPolicy", env)


@pytest.mark.parametrize("placement", models.PLACEMENTS)
def test_images_that_are_no_bytes_are_taken_where_sb3_refuses_them(placement):
    env = arena.Arena(spaces.Box(0, 1, (1, 36, 36), np.float32))
    arena.train(models.make("PPO", placement, "Cnn", env))
    with pytest.raises(AssertionError, match="You should use NatureCNN only with images"):
        arena.make("PPO", "CnnPolicy", env)


def test_nobody_is_warned_of_a_gpu():
    model, theirs = models.make("PPO", "none"), arena.make("PPO", "MlpPolicy")
    for each in (model, theirs):
        each.device = th.device("cuda")
    model._maybe_recommend_cpu()
    with pytest.warns(UserWarning, match="trying to run PPO on the GPU"):
        theirs._maybe_recommend_cpu()


# What the reasons say to do instead.


@pytest.mark.parametrize(("algorithm", "critic"), [("PPO", "vf"), ("SAC", "qf"), ("TQC", "qf")])
def test_an_actor_of_another_placement_has_gsde_beside_a_big_critic(algorithm, critic):
    arena.train(models.with_gsde(algorithm, {"pi": "body", critic: "big"}))


def test_a_flat_encoder_takes_goals_that_are_images_with_big_experts():
    flat = {"features_extractor_kwargs": {"encoder": "flat"}}
    env = models.bits(images=True, discrete=True)
    arena.train(models.make("DQN", "big", "MultiInput", env, **flat))


def test_a_first_layer_of_net_arch_stands_behind_a_big_experts_encoder():
    env = arena.Arena(arena.SB3_IMAGE)
    policy = models.make("DQN", "big", "Cnn", env, net_arch=[16, 8]).policy
    linears = [m for m in policy.get_expert("qf", 0).modules() if isinstance(m, th.nn.Linear)]
    assert [each.out_features for each in linears] == [16, 8, 4]


def test_a_big_recurrent_policy_takes_an_extractor_of_the_users_own():
    model = models.make("RecurrentPPO", "big", features_extractor_class=models.Whitening)
    norm = model.policy.features_extractor.layers[1]
    before = norm.running_mean.clone()
    arena.train(model)
    assert not th.equal(norm.running_mean, before)
