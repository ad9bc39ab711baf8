"""The task-aware features extractor: encoders, shapes, and where the one-hot task id goes."""

import arena
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import NatureCNN

from sb3_moe.policies.extractors import (
    CONVS,
    TaskExtractor,
    default_encoder,
    make_convs,
    map_shape_of,
)

FLAT = spaces.Box(-1, 1, (5,), np.float32)
MINATAR = spaces.Box(0, 1, (10, 10, 4), np.uint8)
ATARI = spaces.Box(0, 255, (4, 84, 84), np.uint8)
TASK = spaces.Discrete(3)


def features(extractor, *samples):
    """Preprocess observations as SB3 does and extract."""
    space = extractor._observation_space
    tensors = [to_tensor(each) for each in samples]
    if isinstance(space, spaces.Dict):
        batch = {key: th.stack([each[key] for each in tensors]) for key in space.spaces}
    else:
        batch = th.stack(tensors)
    return extractor(preprocess_obs(batch, space))


def to_tensor(sample):
    if isinstance(sample, dict):
        return {key: th.as_tensor(value) for key, value in sample.items()}
    return th.as_tensor(sample)


def dict_space(**keys):
    return spaces.Dict(keys)


def test_the_one_hot_stands_last_whatever_the_order_of_the_keys():
    space = dict_space(task_id=TASK, zebra=FLAT, ant=spaces.Discrete(2))
    out = features(TaskExtractor(space), {"task_id": 2, "zebra": np.ones(5, np.float32), "ant": 0})
    assert out.tolist() == [[1, 0, 1, 1, 1, 1, 1, 0, 0, 1]]


def planes(space, task, channels_last):
    """Return a random image whose last three channels are lit for one task."""
    space.seed(0)
    image = space.sample()
    image = image if channels_last else image.transpose(1, 2, 0).copy()
    image[..., -3:] = 0
    image[..., -3 + task] = 1
    return image if channels_last else image.transpose(2, 0, 1).copy()


@pytest.mark.parametrize("encoder", ["flat", "minatar"])
@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 1, (10, 10, 7), np.uint8),
        spaces.Box(0, 255, (7, 12, 12), np.uint8),
        spaces.Box(0, 1, (7, 12, 12), np.float32),
    ],
    ids=["channels last", "SB3's images", "scaled"],
)
def test_planes_become_a_one_hot_and_are_seen_nowhere_else(space, encoder):
    last = space.shape[-1] == 7
    extractor = TaskExtractor(space, encoder=encoder, num_tasks=3)
    out = features(extractor, planes(space, 0, last), planes(space, 2, last))
    assert out.shape == (2, extractor.features_dim)
    assert out[:, -3:].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert th.equal(out[0, :-3], out[1, :-3])
    assert extractor.map_shape == (None if encoder == "flat" else (16, *extractor.map_shape[1:]))


def test_the_nature_encoder_is_sb3s_nature_cnn_without_its_linear_layer():
    extractor = TaskExtractor(ATARI, encoder="nature")
    nature = NatureCNN(ATARI)
    nature.cnn[:6].load_state_dict(extractor.convs[0].state_dict())
    image = th.rand(2, 4, 84, 84)
    th.testing.assert_close(extractor(image), nature.cnn[:7](image))
    assert extractor.map_shape == (64, 7, 7)


@pytest.mark.parametrize("encoder", CONVS)
@pytest.mark.parametrize("size", [36, 84, 40])
def test_the_map_shape_is_what_the_convolutions_give(encoder, size):
    shape = (3, size, size)
    given = make_convs(encoder, shape)(th.zeros(1, *shape)).shape[1:]
    assert map_shape_of(encoder, shape) == tuple(given)
    assert TaskExtractor(spaces.Box(0, 255, shape, np.uint8), encoder=encoder).map_shape == given


def test_raw_hands_on_the_flattened_image_channels_first():
    extractor = TaskExtractor(dict_space(obs=MINATAR, task_id=TASK), encoder="minatar", raw=True)
    image = np.zeros((10, 10, 4), np.uint8)
    image[0, 1, 2] = 1
    out = features(extractor, {"obs": image, "task_id": 1})
    assert extractor.image_shape == (4, 10, 10)
    assert out[0, :400].nonzero().item() == 2 * 100 + 1
    assert out[0, 400:].tolist() == [0, 1, 0]
    assert not list(extractor.parameters())


@pytest.mark.parametrize(
    ("space", "encoder"),
    [
        (FLAT, "flat"),
        (MINATAR, "minatar"),
        (ATARI, "nature"),
        (spaces.Box(0, 255, (3, 36, 36), np.uint8), "nature"),
        (spaces.Box(0, 255, (3, 35, 84), np.uint8), "minatar"),
        (spaces.Box(-1, 1, (2, 2, 2), np.float32), "flat"),
        (dict_space(a=MINATAR, b=MINATAR, c=FLAT), "minatar"),
        (dict_space(a=MINATAR, b=ATARI), "auto"),
        (dict_space(a=spaces.Box(-1, 1, (4, 2, 2), np.float32), b=ATARI), "auto"),
    ],
    ids=str,
)
def test_the_default_encoder_goes_by_the_size_of_the_image(space, encoder):
    assert default_encoder(space) == encoder


@pytest.mark.parametrize("swapped", [False, True])
def test_each_of_several_pictures_gets_the_encoder_of_its_size(swapped):
    names = ["b", "a"] if swapped else ["a", "b"]
    tiny = spaces.Box(-1, 1, (2, 2, 3), np.float32)
    space = dict_space(**dict(zip(names, [MINATAR, ATARI], strict=True)), tiny=tiny, task_id=TASK)
    extractor = TaskExtractor(space, encoder="auto")
    assert extractor.encoders == dict(zip(names, ["minatar", "nature"], strict=True))
    assert extractor.flat_keys == ["tiny"]
    nature = TaskExtractor(dict_space(obs=ATARI), encoder="nature").features_dim
    assert extractor.features_dim == 16 * 8 * 8 + nature + 2 * 2 * 3 + 3
    space.seed(0)
    assert features(extractor, space.sample()).shape == (1, extractor.features_dim)


@pytest.mark.parametrize("encoder", ["flat", "impala"])
def test_a_policy_for_images_takes_a_tiny_one_with_the_encoder_that_is_asked_for(encoder):
    env = arena.Arena(spaces.Box(0, 255, (2, 2, 3), np.uint8), spaces.Discrete(2))
    with pytest.raises(ValueError, match=r"needs an image .* at least 3x3"):
        PPO("MoeCnnPolicy", env)
    kwargs = {"features_extractor_kwargs": {"encoder": encoder}}
    assert PPO("MoeCnnPolicy", env, policy_kwargs=kwargs).policy.features_dim > 0


@pytest.mark.parametrize(
    ("space", "channels"),
    [
        (spaces.Box(0, 1, (3, 40, 42), np.float32), 3),
        (spaces.Box(0, 1, (40, 42, 3), np.float32), 3),
        (spaces.Box(0, 255, (3, 20, 20), np.uint8), 3),
        (spaces.Box(0, 1, (10, 10, 10), np.uint8), 10),
        (spaces.Box(0, 1, (10, 10, 12), np.uint8), 12),
        (spaces.Box(0, 1, (10, 4, 10), np.uint8), 10),
    ],
    ids=str,
)
def test_channels_are_on_the_first_axis_where_it_is_the_shortest_else_on_the_last(space, channels):
    extractor = TaskExtractor(space, encoder="minatar")
    assert extractor.convs[0][0].in_channels == channels
    space.seed(0)
    assert features(extractor, space.sample()).shape == (1, extractor.features_dim)


@pytest.mark.parametrize(
    ("space", "kwargs", "message"),
    [
        (FLAT, {"encoder": "resnet"}, r"`encoder` must be one of \['flat', 'minatar', 'nature'"),
        (FLAT, {"encoder": "minatar"}, r"`encoder`='minatar' needs an image .*, got Box\(.*'flat'"),
        (FLAT, {"features_dim": 4}, "`features_dim`=4 adds a layer .* `encoder`='flat' has none"),
        (MINATAR, {"encoder": "minatar", "num_tasks": 4}, "`num_tasks`=4 leaves no channel of 4"),
        (dict_space(obs=FLAT, task_id=TASK), {"num_tasks": 4}, "`num_tasks` must agree .* got 4"),
        (
            dict_space(a=MINATAR, b=MINATAR),
            {"encoder": "minatar", "raw": True},
            r"`placement`='big' takes one image key, got \['a', 'b'\]",
        ),
    ],
)
def test_what_does_not_fit_the_space_is_an_error(space, kwargs, message):
    with pytest.raises(ValueError, match=message):
        TaskExtractor(space, **kwargs)


def test_crossq_refuses_a_dict_before_it_steps_anything():
    world = arena.Arena(arena.with_task(arena.FLAT), arena.BOX)
    with pytest.raises(ValueError, match=r"CrossQ takes no Dict observations.*`task_id`='onehot'"):
        arena.make("CrossQ", "MoeMlpPolicy", world)
