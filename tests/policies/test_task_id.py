"""The task id reaches exactly those who are to see it."""

from contextlib import contextmanager

import arena
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize, VecTransposeImage

from sb3_moe.policies.networks import networks_of
from sb3_moe.vec_env.task_ids import TaskIds
from sb3_moe_envs.spaces.interface import Channels

TASK_INPUTS = ("both", "router", "experts", "none")
FLAT_TASK = arena.with_task(arena.FLAT)
ALGORITHMS = ("PPO", "DQN", "SAC", "TD3", "RecurrentPPO", "QRDQN", "TQC", "MaskablePPO")


def make(algorithm, **options):
    lstm = "Lstm" if algorithm == "RecurrentPPO" else ""
    env = arena.Arena(FLAT_TASK, arena.actions_of(algorithm))
    kwargs = {"net_arch": [8], **options}
    return arena.make(algorithm, f"MoeMultiInput{lstm}Policy", env, **kwargs)


def observations():
    """Return the same observation under each task."""
    obs = np.linspace(-1, 1, 5, dtype=np.float32)
    return {"obs": np.stack([obs] * 3), "task_id": np.arange(3)}


@contextmanager
def inputs_of_layers(policy):
    """Note what each MoE layer's experts and router are given."""
    seen, handles = {}, []
    for name, layer in policy.moe_layers().items():

        def note(module, args, name=name):
            seen[name] = [x.detach() for x in args]

        handles.append(layer.register_forward_pre_hook(note))
    yield seen
    for handle in handles:
        handle.remove()


def tells_tasks_apart(x):
    # Rows of one matrix product differ in their last bits.
    return not th.allclose(x[0], x[1], atol=1e-6)


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
@pytest.mark.parametrize(
    "options",
    [{"placement": "final"}, {"placement": "final", "router": "uniform"}, {"task_embedding": 2}],
    ids=str,
)
def test_without_a_hidden_layer_a_head_that_would_not_see_the_id_is_refused(algorithm, options):
    with pytest.raises(ValueError, match="`net_arch` must have a hidden layer for the task id"):
        make(algorithm, **{"placement": "none", "net_arch": [], **options})
    assert make(algorithm, placement="final", task_input="router", net_arch=[])
    plain = make(algorithm, placement="none", net_arch=[]).policy
    obs, _ = plain.obs_to_tensor(observations())
    with th.no_grad():
        assert tells_tasks_apart(
            plain._predict(obs, deterministic=True)
            if algorithm == "SAC"
            else plain.predict_values(obs)
        )


@pytest.mark.covering
@pytest.mark.parametrize("task_input", TASK_INPUTS)
@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a != "RecurrentPPO"])
def test_the_id_enters_the_experts_and_the_routers_that_are_to_see_it(algorithm, task_input):
    policy = make(algorithm, placement="middle", task_input=task_input).policy
    actions = np.zeros((3, 2), np.float32) if algorithm in arena.BOX_ACTIONS else None
    with inputs_of_layers(policy) as seen:
        policy.routing(observations(), actions)
    assert len(seen) == len(policy.moe_layers())
    for experts, router in seen.values():
        assert tells_tasks_apart(experts) == (task_input in ("both", "experts"))
        assert tells_tasks_apart(router) == (task_input in ("both", "router"))


@pytest.mark.covering
@pytest.mark.parametrize("task_input", TASK_INPUTS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_dense_networks_see_the_id_only_as_experts_would(algorithm, task_input):
    policy = make(algorithm, placement="none", task_input=task_input).policy
    with th.no_grad():
        outputs = networks_of(policy).outputs(policy.obs_to_tensor(observations())[0])
    for output_B in outputs.values():
        assert tells_tasks_apart(output_B) == (task_input in ("both", "experts"))


SHAPES = [(4, 10, 10), (8, 10, 10), (10, 10, 4), (3, 4, 40), (12, 14, 3), (20, 6, 3), (3, 3, 3)]


@pytest.mark.parametrize("high", [1.0, 255], ids=["scaled", "SB3's images"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.filterwarnings("ignore:Treating image space as channels-last")  # SB3's, of odd ones
def test_planes_that_a_world_writes_are_read_or_it_refuses_to_write_them(shape, high):
    picture = spaces.Box(0, high, shape, np.uint8 if high == 255 else np.float32)
    for num_tasks in range(1, 21):
        try:
            world = Channels(picture, [*map(str, range(num_tasks))])
        except ValueError:
            continue
        obs = world.add_id(np.zeros((num_tasks, *shape), picture.dtype), np.arange(num_tasks))
        for space, shown in as_sb3_shows_them(world.space, obs):
            read = TaskIds(space, num_tasks, "reading planes")
            assert read(shown).tolist() == list(range(num_tasks)), num_tasks


def as_sb3_shows_them(space, obs):
    """Yield pictures as the world gives them and, where SB3 turns them, as a policy sees them."""
    yield space, obs
    if is_image_space(space) and not is_image_space_channels_first(space):
        yield VecTransposeImage.transpose_space(space), np.moveaxis(obs, -1, 1)


def test_behind_vec_normalize_a_one_hot_still_sends_each_task_to_its_expert():
    env = arena.default_env("PPO", "MoeMlpPolicy", num_tasks=3)
    normalized = VecNormalize(DummyVecEnv([lambda: env]))
    model = arena.train(
        arena.make("PPO", env=normalized, router="task", features_extractor_kwargs={"num_tasks": 3})
    )
    obs = np.zeros((3, 8), np.float32)
    obs[:, 5:] = np.eye(3)
    seen = normalized.normalize_obs(obs)
    assert not np.isin(seen[:, 5:], [0, 1]).any()
    gates = model.policy.routing(seen)["pi.middle"].gates_BNE
    assert th.equal(gates[:, 0], th.eye(3))


@pytest.mark.parametrize("placement", ["none", "middle"])
def test_the_lstm_sees_the_id_for_both_and_experts(placement):
    widths = {
        task_input: make("RecurrentPPO", placement=placement, task_input=task_input).policy
        for task_input in TASK_INPUTS
    }
    sizes = {name: policy.lstm_actor.input_size for name, policy in widths.items()}
    assert sizes == {"both": 8, "router": 5, "experts": 8, "none": 5}


def test_an_lstm_can_not_show_the_id_to_one_network_only():
    with pytest.raises(ValueError, match="`task_input` must let the task id into the LSTM"):
        make("RecurrentPPO", task_input={"pi": "both", "vf": "router"})


@pytest.mark.parametrize("placement", ["big", "none"])
def test_a_task_id_that_is_out_of_range_is_named(placement):
    space = spaces.Dict({"obs": spaces.Box(-1, 1, (3,)), "task_id": spaces.Discrete(2)})
    env = arena.Arena(space)
    model = arena.make("PPO", "MoeMultiInputPolicy", env, placement=placement)
    for wrong in (5, np.nan, "Plane"):
        obs = {"obs": np.zeros((3, 3), np.float32), "task_id": np.array([0, wrong, 1])}
        message = rf"`task_id` of an observation must be in \[0, 2\), got .*{wrong}"
        with pytest.raises(ValueError, match=message):
            model.predict(obs)
    for lacking, got in (({"obs": np.zeros(3)}, r"\['obs'\]"), (np.zeros(3), "ndarray")):
        with pytest.raises(ValueError, match=rf"dict with \['obs', 'task_id'\], got {got}"):
            model.predict(lacking)


@pytest.mark.parametrize("placement", ["big", "none"])
def test_an_entry_of_that_name_that_is_no_number_is_an_observation_like_others(placement):
    space = spaces.Dict({"obs": spaces.Box(-1, 1, (3,)), "task_id": spaces.Box(0, 1, (2,))})
    model = arena.make("PPO", "MoeMultiInputPolicy", arena.Arena(space), placement=placement)
    assert model.policy.features_extractor.features_dim == 5
    model.learn(8).predict(space.sample())
