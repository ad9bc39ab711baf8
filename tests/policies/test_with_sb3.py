"""What SB3 offers around a policy keeps working; ``tests/hosts`` asks what SB3's own tests ask."""

import subprocess
import sys
from functools import partial
from itertools import product

import arena
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from reach import Reach
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.her import HerReplayBuffer
from torch import nn

PLACEMENTS = ("middle", "final", "all", "big")
ACTIONS = {
    "box": arena.BOX,
    "discrete": arena.DISCRETE,
    "multidiscrete": spaces.MultiDiscrete([3, 2]),
    "multibinary": spaces.MultiBinary(3),
}


@pytest.mark.covering
@pytest.mark.parametrize(
    ("algorithm", "placement"),
    [
        *((name, "all") for name in ("PPO", "A2C")),
        *product(("TRPO", "RecurrentPPO"), PLACEMENTS),
    ],
)
@pytest.mark.parametrize("actions", ACTIONS)
def test_every_action_space_of_on_policy_algorithms_works(algorithm, actions, placement):
    if (algorithm, actions) == ("RecurrentPPO", "multibinary"):
        pytest.skip("sb3-contrib's own recurrent policy fails with MultiBinary actions")
    alias = "MoeMlpLstmPolicy" if algorithm == "RecurrentPPO" else "MoeMlpPolicy"
    env = arena.Arena(arena.FLAT, ACTIONS[actions])
    model = arena.train(arena.make(algorithm, alias, env, placement=placement, net_arch=[8]))
    assert ACTIONS[actions].contains(arena.predict(model, env.observation_space.sample()))


class Masked(arena.Arena):
    """Masks for MultiDiscrete actions: the first choice has no third option."""

    def action_masks(self):
        return np.array([True, True, False, True, True])


def test_masks_hold_with_experts():
    model = arena.make("MaskablePPO", placement="all", net_arch=[8])
    masks = np.array([False, False, False, True])
    for obs in arena.observe(model, 10):
        assert model.predict(obs, action_masks=masks, deterministic=False)[0] == 3
    env = Masked(arena.FLAT, ACTIONS["multidiscrete"])
    arena.train(arena.make("MaskablePPO", env=env, net_arch=[8]))


@pytest.mark.parametrize(
    ("algorithm", "placement"),
    [
        *((name, "all") for name in ("PPO", "A2C", "SAC")),
        *(("TQC", placement) for placement in ("none", "middle", "final", "all")),
    ],
)
def test_gsde_works(algorithm, placement):
    env = arena.Arena(arena.FLAT, arena.BOX)
    arguments = {"use_sde": True, "sde_sample_freq": 4}
    model = arena.make(
        algorithm, env=env, model=arguments, placement=placement, net_arch=[8], log_std_init=-1.0
    )
    before = model.policy.state_dict()
    name = next(key for key in before if key.endswith("log_std"))
    before = before[name].clone()
    arena.train(model, 24)
    assert not th.equal(model.policy.state_dict()[name], before)
    assert np.isfinite(arena.predict(model, arena.observe(model))).all()


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "TQC"])
def test_gsde_with_a_big_actor_is_an_error_and_with_a_big_critic_is_none(algorithm):
    env = arena.Arena(arena.FLAT, arena.BOX)
    sde = {"use_sde": True}
    with pytest.raises(ValueError, match=r"`use_sde`=True needs the latent .* `placement`='big'"):
        arena.make(algorithm, env=env, model=sde, placement="big")
    critic = "vf" if algorithm == "PPO" else "qf"
    arena.train(arena.make(algorithm, env=env, model=sde, placement={critic: "big"}, net_arch=[8]))


@pytest.mark.covering
@pytest.mark.parametrize("n_critics", [1, 2, 3])
@pytest.mark.parametrize("algorithm", ["SAC", "TD3", "TQC", "CrossQ"])
def test_every_critic_has_experts_of_its_own(algorithm, n_critics):
    model = arena.make(algorithm, n_critics=n_critics, placement="all", net_arch=[8])
    arena.train(model)
    names = {name.split(".")[0] for name in model.policy.moe_layers()}
    assert names == {"pi", *(f"qf{i}" for i in range(n_critics))}
    layers = model.policy.moe_layers()
    weights = [layers[f"qf{i}.all.0"].experts.last.weight for i in range(n_critics)]
    assert len({id(weight) for weight in weights}) == n_critics


def test_td3_judges_with_its_first_critic():
    policy = arena.make("TD3", placement="big").policy
    obs = th.randn(4, 5)
    actions = th.rand(4, 2)
    with th.no_grad():
        first = policy.critic(obs, actions)[0]
        th.testing.assert_close(policy.critic.q1_forward(obs, actions), first)


@pytest.mark.parametrize(
    ("algorithm", "net_arch", "widths"),
    [
        ("PPO", {"pi": [8], "vf": [7, 6]}, {"pi.middle": 8, "vf.middle": 6}),
        ("PPO", [9], {"pi.middle": 9, "vf.middle": 9}),
        ("SAC", {"pi": [8], "qf": [7]}, {"pi.middle": 8, "qf0.middle": 7, "qf1.middle": 7}),
        ("DQN", [9, 5], {"qf.middle": 5}),
    ],
)
def test_net_arch_keeps_its_meaning(algorithm, net_arch, widths):
    model = arena.make(algorithm, net_arch=net_arch)
    layers = model.policy.moe_layers()
    assert {name: layer.experts.out_features for name, layer in layers.items()} == widths


def test_the_activation_keeps_its_meaning():
    policy = arena.make("PPO", activation_fn=nn.ELU, net_arch=[8]).policy
    assert isinstance(policy.get_expert("pi", 0)[1], nn.ELU)


def test_orthogonal_initialisation_reaches_the_experts_with_sb3s_gains():
    policy = arena.make("PPO", placement="final", net_arch=[8]).policy
    for tower, gain in (("pi", 0.01), ("vf", 1.0)):
        for k in range(4):
            weight = policy.get_expert(tower, k)[0].weight
            eye = th.eye(len(weight))
            th.testing.assert_close(weight @ weight.t(), gain**2 * eye, atol=1e-6, rtol=1e-4)
    plain = arena.make("PPO", placement="final", net_arch=[8], ortho_init=False).policy
    assert plain.get_expert("pi", 0)[0].weight.norm() > 0.1


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
@pytest.mark.parametrize("share", [True, False])
def test_share_features_extractor_keeps_its_meaning_and_survives_saving(algorithm, share, tmp_path):
    model = arena.make(algorithm, "MoeCnnPolicy", share_features_extractor=share, net_arch=[8])
    arena.train(model)
    model.policy.save(tmp_path / "policy")
    for policy in (model.policy, type(model.policy).load(tmp_path / "policy")):
        assert policy.share_features_extractor == share
        if algorithm == "PPO":
            assert (policy.pi_features_extractor is policy.vf_features_extractor) == share
        else:
            same = policy.actor.features_extractor is policy.critic.features_extractor
            assert same == share


def test_the_sizes_of_an_lstm_survive_saving(tmp_path):
    sizes = {
        "lstm_hidden_size": 12,
        "n_lstm_layers": 2,
        "shared_lstm": False,
        "enable_critic_lstm": False,
        "lstm_kwargs": {"dropout": 0.1},
    }
    model = arena.make("RecurrentPPO", "MoeMultiInputLstmPolicy", net_arch=[8], **sizes)
    model.policy.save(tmp_path / "policy")
    loaded = type(model.policy).load(tmp_path / "policy")
    kept = loaded._get_constructor_parameters()
    assert {name: kept[name] for name in sizes} == sizes
    arena.assert_same_weights(loaded, model.policy)


@pytest.mark.parametrize("algorithm", ["PPO", "SAC", "DQN"])
def test_parameters_go_from_one_model_to_another(algorithm):
    model, other = (arena.make(algorithm, router="top_k", seed=seed) for seed in (0, 1))
    arena.train(model)
    other.set_parameters(model.get_parameters())
    arena.assert_same_weights(other.policy, model.policy)
    arena.train(other)


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_vec_normalize_works_with_several_keys(algorithm):
    space = spaces.Dict({"a": arena.FLAT, "b": arena.FLAT, "task_id": spaces.Discrete(3)})
    env = DummyVecEnv([lambda: arena.Arena(space, arena.actions_of(algorithm))] * 2)
    env = VecNormalize(env, norm_obs_keys=["a", "b"])
    model = arena.make(algorithm, "MoeMultiInputPolicy", env, router="task", net_arch=[8])
    arena.train(model, 32)
    assert model.get_vec_normalize_env() is env


@pytest.mark.parametrize("algorithm", [SAC, TD3])
def test_her_works_with_an_environment_of_goals(algorithm):
    model = algorithm(
        "MoeMultiInputPolicy",
        Reach(),
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 2},
        learning_starts=16,
        batch_size=16,
        buffer_size=100,
        policy_kwargs={"router": "top_k", "net_arch": [8], "balance_coef": 0.01},
        seed=0,
    )
    model.learn(40)
    assert np.isfinite(evaluate_policy(model, Monitor(Reach()), n_eval_episodes=2)[0])


def test_a_model_saved_in_one_process_acts_the_same_in_another(tmp_path):
    options = {"placement": "big", "router": "top_k", "top_k": 2, "bias_rate": 0.01}
    model = arena.train(arena.make("DQN", "MoeCnnPolicy", net_arch=[16], **options))
    obs = arena.observe(model, 20)
    model.save(tmp_path / "model")
    np.save(tmp_path / "obs.npy", obs)
    code = f"""
import numpy as np
import sb3_moe
from stable_baselines3 import DQN
model = DQN.load("{tmp_path}/model")
print(*model.predict(np.load("{tmp_path}/obs.npy"), deterministic=True)[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [int(each) for each in done.stdout.split()] == arena.predict(model, obs).tolist()


@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "SAC"])
def test_the_class_serves_as_well_as_its_name(algorithm):
    policy = arena.algorithm_class(algorithm).policy_aliases["MoeMlpPolicy"]
    env = arena.default_env(algorithm, "MoeMlpPolicy")
    by_class, by_name = (arena.make(algorithm, each, env) for each in (policy, "MoeMlpPolicy"))
    arena.assert_same_weights(by_class.policy, by_name.policy)


def test_an_unknown_option_is_a_type_error():
    with pytest.raises(TypeError, match="num_expert"):
        arena.make("PPO", num_expert=3)


@pytest.mark.parametrize(
    ("algorithm", "options", "message"),
    [
        ("PPO", {"placement": "center"}, "`placement` must be one of"),
        ("SAC", {"placement": {"vf": "big"}}, r"`placement` may name the towers \['pi', 'qf'\]"),
        ("DQN", {"placement": {"pi": "big"}}, r"`placement` may name the towers \['qf'\]"),
        ("DQN", {"net_arch": []}, "`placement`='middle' replaces the last hidden layer"),
        ("TD3", {"net_arch": {"pi": [], "qf": [8]}}, "`placement`='middle' replaces the last"),
        ("PPO", {"router": "expert_choice"}, "`router`='expert_choice' chooses among the tokens"),
        ("PPO", {"router": "top_k", "top_k": 9}, r"`top_k` must be in \[1, num_experts=4\], got 9"),
        ("A2C", {"num_experts": 0}, "`num_experts` must be at least 1, got 0"),
        ("PPO", {"router_noise": 0.3}, "`router_noise` must be 0 for on-policy algorithms, .* 0.3"),
        ("TRPO", {"balance_coef": 0.3}, "`balance_coef` must be 0 for TRPO, .* got 0.3"),
        ("TRPO", {"importance_coef": {"pi": 0.3}}, "`importance_coef` must be 0 for TRPO"),
        ("TRPO", {"z_coef": 0.3}, "`z_coef` must be 0 for TRPO, whose KL gradient it would change"),
    ],
)
def test_a_bad_option_fails_in_the_constructor(algorithm, options, message):
    with pytest.raises(ValueError, match=message):
        arena.make(algorithm, **options)


@pytest.mark.parametrize("tokens", ["conv", "feature"])
def test_recurrent_policies_take_sample_tokens_only(tokens):
    with pytest.raises(ValueError, match=f"`tokens` must be 'sample' .* got '{tokens}'"):
        arena.make("RecurrentPPO", "MoeCnnLstmPolicy", tokens=tokens, net_arch=[8])


@pytest.mark.parametrize("algorithm", ["PPO", "DQN", "SAC", "TD3"])
def test_nan_in_an_observation_ends_as_with_sb3s_own_policy(algorithm, monkeypatch):
    # torch.compile, in a test before it, turns these checks off in the whole process.
    monkeypatch.setattr(th.distributions.Distribution, "_validate_args", True)
    outcomes = []
    for alias in ("MlpPolicy", "MoeMlpPolicy"):
        model = arena.make(algorithm, alias)
        try:
            outcome = np.isnan(model.predict(np.full(5, np.nan, np.float32))[0]).any()
        except ValueError as error:
            outcome = str(error)[:40]
        outcomes.append(outcome)
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    "options",
    [
        {"placement": "body", "net_arch": [8, 8]},
        {"placement": "all", "expert": "linear", "router": "top_k", "balance_coef": 0.1},
        {"placement": "body", "spectral_coef": 0.1, "spectral_mode": "features"},
        {"placement": "final", "router": "top_k", "z_coef": 0.1},
    ],
)
@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_an_activation_that_writes_in_place_does_not_where_it_can_not(algorithm, options):
    kwargs = {"net_arch": [8, 8], "num_experts": 2, **options}
    ours, plain = (
        arena.train(arena.make(algorithm, activation_fn=partial(nn.ReLU, inplace=here), **kwargs))
        for here in (True, False)
    )
    pairs = zip(ours.policy.parameters(), plain.policy.parameters(), strict=True)
    assert all(th.equal(*pair) for pair in pairs)
