"""Actors, critics and Q networks save and load on their own, as SB3's do."""

import subprocess
import sys

import arena
import pytest
import torch as th
from stable_baselines3.common.policies import BaseModel

PARTS = {
    "DQN": ("q_net", "q_net_target"),
    "QRDQN": ("quantile_net", "quantile_net_target"),
    "SAC": ("actor", "critic", "critic_target"),
    "TD3": ("actor", "actor_target", "critic", "critic_target"),
    "DDPG": ("actor", "actor_target", "critic", "critic_target"),
    "TQC": ("actor", "critic", "critic_target"),
    "CrossQ": ("actor", "critic"),
}
PLACEMENTS = ("middle", "final", "all", "big")
ROUTERS = {
    "middle": {"router": "top_k", "top_k": 2, "bias_rate": 0.1},
    "final": {"router": "task"},
    "all": {"router": "soft", "normalize_router": True, "expert_width": 6},
    "big": {"router": "random", "num_experts": 3},
}


def trained(algorithm, alias="MoeMlpPolicy", env=None, **kwargs):
    return arena.train(arena.make(algorithm, alias, env, net_arch=[8], **kwargs))


def outputs(part, model):
    """Return what a part makes of some observations, and critics of some actions."""
    obs, _ = model.policy.obs_to_tensor(arena.observe(model))
    # A loaded part is in training mode, and loads that were counted move a bias on leaving it.
    part.train().set_training_mode(False)
    actions = () if hasattr(part, "_predict") else (th.full((3, 2), 0.3),)
    with th.no_grad():
        out = part(obs, *actions)
    return out if isinstance(out, tuple) else (out,)


def deterministic(part):
    """Let an actor give its mean."""
    forward = part.forward
    if "deterministic" in forward.__code__.co_varnames:
        part.forward = lambda obs: forward(obs, deterministic=True)
    return part


def assert_loads(part, model, path):
    part.save(path)
    loaded = type(part).load(path, device="cpu")
    assert type(loaded) is type(part)
    arena.assert_same_weights(loaded, part)
    ours, theirs = outputs(deterministic(loaded), model), outputs(deterministic(part), model)
    assert all(th.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert loaded._get_constructor_parameters().keys() == part._get_constructor_parameters().keys()


@pytest.mark.covering
@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("algorithm", PARTS)
def test_every_part_with_experts_loads_as_it_was_saved(algorithm, placement, tmp_path):
    env = arena.default_env(algorithm, "MoeMlpPolicy", 3)
    extractor = {"features_extractor_kwargs": {"num_tasks": 3}}
    options = {"placement": placement, "task_input": "router", **ROUTERS[placement]}
    model = trained(algorithm, env=env, **extractor, **options)
    for name in PARTS[algorithm]:
        assert_loads(getattr(model.policy, name), model, tmp_path / name)


@pytest.mark.parametrize("algorithm", [name for name in PARTS if name != "CrossQ"])
def test_parts_behind_encoded_images_load(algorithm, tmp_path):
    for alias in ("MoeCnnPolicy", "MoeMultiInputPolicy"):
        kwargs = {"placement": "middle", "tokens": "conv", "num_slots": 2}
        model = trained(algorithm, alias, **kwargs)
        for name in PARTS[algorithm]:
            assert_loads(getattr(model.policy, name), model, tmp_path / name)


@pytest.mark.parametrize("algorithm", [name for name in PARTS if name != "CrossQ"])
def test_parts_that_encode_images_themselves_load(algorithm, tmp_path):
    # Where one tower is big the other must encode too, dense or not.
    placement = "big" if algorithm in ("DQN", "QRDQN") else {"pi": "none", "qf": "big"}
    model = trained(algorithm, "MoeCnnPolicy", placement=placement)
    for name in PARTS[algorithm]:
        assert_loads(getattr(model.policy, name), model, tmp_path / name)


@pytest.mark.parametrize("placement", ["middle", "final", "all"])
@pytest.mark.parametrize("algorithm", ["SAC", "TQC", "CrossQ"])
def test_actors_with_gsde_load(algorithm, placement, tmp_path):
    sde = {"use_sde": True}
    model = trained(algorithm, model=sde, placement=placement, clip_mean=1.5, log_std_init=-1.0)
    assert_loads(model.policy.actor, model, tmp_path / "actor")
    assert type(model.policy.actor).load(tmp_path / "actor").clip_mean == 1.5


def test_parts_that_share_a_features_extractor_load_with_their_own_copy(tmp_path):
    model = trained("SAC", "MoeCnnPolicy", share_features_extractor=True)
    assert_loads(model.policy.critic, model, tmp_path / "critic")
    loaded = type(model.policy.critic).load(tmp_path / "critic")
    assert loaded.share_features_extractor


def test_crossq_parts_without_batch_norm_load(tmp_path):
    model = trained("CrossQ", batch_norm=False)
    for name in PARTS["CrossQ"]:
        assert_loads(getattr(model.policy, name), model, tmp_path / name)


@pytest.mark.parametrize("algorithm", PARTS)
def test_dense_parts_are_sb3s_own_and_load_where_sb3s_do(algorithm, tmp_path):
    model = trained(algorithm, placement="none")
    for name in PARTS[algorithm]:
        part = getattr(model.policy, name)
        assert not type(part).__module__.startswith("sb3_moe")
        if "critic" not in name:
            assert_loads(part, model, tmp_path / name)


def test_a_tower_alone_can_be_dense():
    policy = arena.make("SAC", placement={"pi": "none"}, net_arch=[8]).policy
    assert not type(policy.actor).__module__.startswith("sb3_moe")
    assert type(policy.critic).__module__.startswith("sb3_moe")


def test_a_dense_part_that_hides_the_task_loads(tmp_path):
    env = arena.default_env("DQN", "MoeMlpPolicy", 3)
    extractor = {"features_extractor_kwargs": {"num_tasks": 3}}
    model = trained("DQN", env=env, placement="none", task_input="none", **extractor)
    assert_loads(model.policy.q_net, model, tmp_path / "q_net")


def test_a_part_loads_where_only_its_class_is_imported(tmp_path):
    model = trained("TQC", placement="all")
    part = model.policy.critic
    part.save(tmp_path / "critic")
    module, name = type(part).__module__, type(part).__name__
    code = (
        f"from {module} import {name}\n"
        f"part = {name}.load({str(tmp_path / 'critic')!r}, device='cpu')\n"
        "print(sum(p.double().sum().item() for p in part.parameters()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(run.stdout) == sum(p.double().sum().item() for p in part.parameters())


def test_a_part_refuses_an_argument_that_is_nobodys():
    part = arena.make("DQN", net_arch=[8]).policy.q_net
    kwargs = part._get_constructor_parameters()
    with pytest.raises(TypeError, match="unexpected keyword argument 'placment'"):
        type(part)(**kwargs, placment="big")
    assert isinstance(type(part)(**kwargs), BaseModel)
