"""One observation and one action space for tasks that differ."""

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_moe_envs.spaces import Interface


def interface(observations, actions=None, **options):
    names = [f"t{index}" for index in range(len(observations))]
    actions = actions or [spaces.Discrete(2)] * len(observations)
    return Interface(observations, actions, names, **({"task_id": "none"} | options))


def box(*shape, low=-1.0, high=1.0, dtype=np.float32):
    return spaces.Box(low, high, shape, dtype)


def test_flat_boxes_are_padded_with_zeros_and_keep_their_dtype():
    io = interface([box(2), box(3, low=2.0, high=5.0)])
    assert io.observation_space == spaces.Box(
        np.array([-1, -1, 0], np.float32), np.array([5, 5, 5], np.float32)
    )
    padded = io.encode(0, np.array([0.5, -0.5], np.float32))
    assert padded.tolist() == [0.5, -0.5, 0.0]
    assert padded.dtype == np.float32


@pytest.mark.parametrize("shapes", [[(4, 6, 3), (6, 4, 3)], [(8, 8, 1), (6, 6, 3)]])
def test_pictures_that_dont_nest_stay_pictures_with_the_corner_that_none_fills(shapes):
    io = interface([box(*shape, low=0, high=255, dtype=np.uint8) for shape in shapes])
    assert io.observation_space == box(*np.max(shapes, axis=0), low=0, high=255, dtype=np.uint8)
    assert is_image_space(io.observation_space)


def test_images_with_channels_on_different_sides_are_refused():
    sides = [box(*shape, low=0, high=255, dtype=np.uint8) for shape in [(84, 84, 1), (4, 84, 84)]]
    with pytest.raises(ValueError, match=r"channels first, or all last, got {'t0': .*84, 84, 1"):
        interface(sides)


def test_discrete_spaces_take_the_largest_and_count_from_zero():
    io = interface([spaces.Discrete(3, start=5), spaces.Discrete(4)])
    assert io.observation_space == spaces.Discrete(4)
    assert io.encode(0, np.int64(6)) == 1


def test_multi_discrete_and_multi_binary_are_padded():
    io = interface([spaces.MultiDiscrete([2, 5]), spaces.MultiDiscrete([3, 2, 4])])
    assert io.observation_space == spaces.MultiDiscrete([3, 5, 4])
    assert io.encode(0, np.array([1, 4])).tolist() == [1, 4, 0]
    io = interface([spaces.MultiBinary(2), spaces.MultiBinary(3)])
    assert io.observation_space.shape == (3,)
    assert io.encode(0, np.array([1, 1], np.int8)).tolist() == [1, 1, 0]


def test_dicts_join_their_keys_and_a_missing_one_is_zero():
    io = interface(
        [spaces.Dict(x=box(2), n=spaces.Discrete(3)), spaces.Dict(x=box(3))], task_id="dict"
    )
    assert set(io.observation_space.spaces) == {"x", "n", "task_id"}
    obs = io.encode(1, {"x": np.ones(3, np.float32)})
    assert obs["n"] == 0
    assert obs["task_id"] == 1
    assert obs in io.observation_space


def test_equal_spaces_stay_as_they_are():
    io = interface([box(2)] * 2)
    assert (io.observation_space, io.action_space) == (box(2), spaces.Discrete(2))


def test_agents_and_tasks_draw_from_generators_of_their_own():
    own = spaces.Discrete(2, seed=0)
    shared = interface([box(2)] * 2, [own, own]).action_space
    drawn = [shared.sample() for _ in range(9)]
    assert [own.sample() for _ in range(9)] == drawn


def test_onehot_appends_the_id_to_a_flat_box():
    io = interface([box(2), box(3)], task_id="onehot")
    assert io.observation_space.shape == (5,)
    assert io.encode(1, np.full(3, 0.5, np.float32)).tolist() == [0.5, 0.5, 0.5, 0, 1]
    assert io.encode(1, np.full(3, 0.5, np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("shape", "high", "expected"), [((4, 4, 3), 1, (4, 4, 5)), ((3, 40, 40), 255, (5, 40, 40))]
)
def test_channels_appends_one_plane_per_task_where_the_image_keeps_its_channels(
    shape, high, expected
):
    io = interface([box(*shape, low=0, high=high, dtype=np.uint8)] * 2, task_id="channels")
    assert io.observation_space.shape == expected
    image = io.encode(1, np.zeros(shape, np.uint8))
    planes = image if shape[0] == 3 else np.moveaxis(image, -1, 0)
    assert [int(plane.max()) for plane in planes] == [0, 0, 0, 0, high]
    assert planes[-1].min() == high


def test_masks_say_what_each_task_has():
    io = interface([box(1)] * 2, [spaces.Discrete(2), spaces.Discrete(4)], task_id="dict")
    assert io.masks.of(0).tolist() == [True, True, False, False]
    assert io.masks.of(np.array([1, 0])).shape == (2, 4)
    io = interface(
        [box(1)] * 2, [spaces.MultiDiscrete([2]), spaces.MultiDiscrete([3, 2])], task_id="dict"
    )
    assert io.masks.of(0).tolist() == [True, True, False, True, False]
    with pytest.raises(TypeError, match="`action_masks` needs a Discrete or MultiDiscrete"):
        interface([box(1)], [box(1)]).masks.of(0)


@pytest.mark.parametrize(("invalid", "expected"), [("noop", 5), ("modulo", 6)])
def test_an_action_that_a_task_lacks_is_replaced(invalid, expected):
    actions = [spaces.Discrete(2, start=5), spaces.Discrete(4)]
    io = interface([box(1)] * 2, actions, invalid_action=invalid)
    assert io.action_space == spaces.Discrete(4)
    assert io.decode(0, np.int64(3)) == expected
    assert io.decode(0, np.int64(1)) == 6
    assert io.decode(1, np.int64(3)) == 3
    assert io.decode(0, np.array([0, 1, 3])).tolist() == [5, 6, expected]


def test_an_action_that_a_task_lacks_can_be_an_error():
    io = interface([box(1)] * 2, [spaces.Discrete(2), spaces.Discrete(4)], invalid_action="error")
    for lacked in (3, -1):
        message = f"`action` must be at least 0 and below 2 in this task, got {lacked}"
        with pytest.raises(ValueError, match=message):
            io.decode(0, np.int64(lacked))


def test_box_actions_with_the_same_bounds_are_cut():
    io = interface([box(1)] * 2, [box(2), box(3)])
    assert io.action_space == box(3)
    assert io.decode(0, np.array([0.1, 0.2, 0.3], np.float32)).tolist() == pytest.approx([0.1, 0.2])


def test_box_actions_with_other_bounds_are_mapped_from_the_unit_box():
    io = interface([box(1)] * 2, [box(1, low=-2, high=2), box(2, low=0, high=4)])
    assert io.action_space == box(2)
    assert io.decode(0, np.array([[0.5, 0.0], [-1, 1]], np.float32)).tolist() == [[1.0], [-2.0]]
    assert io.decode(1, np.array([0.5, -1], np.float32)).tolist() == [3.0, 0.0]


def test_actions_arrive_in_the_type_of_the_tasks_own():
    for own in (
        [box(2), box(2, dtype=np.float64)],
        [spaces.Discrete(2, dtype=np.int32), spaces.Discrete(3)],
        [spaces.MultiDiscrete([2, 5], dtype=np.int8), spaces.MultiDiscrete([3, 2])],
    ):
        io = interface([box(1)] * 2, own)
        for task, space in enumerate(own):
            assert space.contains(io.decode(task, io.action_space.sample()))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: interface([box(2), spaces.Discrete(2)]), "`observation_space` must be of on"),
        (
            lambda: interface([spaces.Dict(x=box(2), n=box(1)), spaces.Dict(x=spaces.Discrete(4))]),
            r"of one kind .* got {'t0.x': Box.*, 't1.x': Discrete\(4\)}; wrap the tasks .*FilterOb",
        ),
        (
            lambda: interface([box(2)] * 2, [spaces.Text(3), spaces.Text(4)]),
            "`action_space` must be .* got {'t0': Text.*; wrap the tasks .*TransformAction",
        ),
        (
            lambda: interface([spaces.Dict(mission=spaces.Text(size)) for size in (3, 4)]),
            "must be of one kind .* got {'t0.mission': .*FilterObservation drops .* texts",
        ),
        (
            lambda: interface([box(2)] * 2, [box(1), box(1, high=np.inf)]),
            "`action_space` must be Boxes of floats with finite bounds .* got 't1'",
        ),
        (lambda: interface([box(2, 2, 2)], task_id="onehot"), "'onehot' needs a flat Box"),
        (lambda: interface([box(2)], task_id="channels"), "'channels' needs an image"),
        (
            lambda: interface([spaces.Dict(task_id=box(1))], task_id="dict"),
            r"needs tasks without a key of that name, got .* the keys \['task_id'\]",
        ),
    ],
)  # fmt: skip
def test_spaces_that_do_not_fit_are_refused_with_the_rule_and_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()
