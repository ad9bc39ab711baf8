"""Images and videos of all tasks, in one size."""

from functools import partial

import pytest
from counting import CountingEnv

from sb3_moe_envs import (
    Cycle,
    Interleave,
    MultiTaskEnv,
    MultiTaskVectorEnv,
    Task,
    make_multitask_vector,
)


def tagged(render_mode):
    return [
        Task(f"t{tag}", env_fn=partial(CountingEnv, tag, render_mode=render_mode)) for tag in (1, 2)
    ]


def pictured():
    return MultiTaskEnv(
        tagged("rgb_array"), schedule=Interleave("episodes"), render_mode="rgb_array"
    )


def test_all_tasks_are_drawn_in_the_size_of_the_largest_with_the_smaller_in_the_middle():
    env = pictured()
    assert MultiTaskVectorEnv(tagged(None)).render() is None
    assert env.metadata["render_fps"] == 7
    frames = []
    for _ in range(2):
        env.reset()
        env.step(0)
        frames.append(env.render())
    assert [frame.shape for frame in frames] == [(6, 8, 3)] * 2
    assert frames[0][:, 0, 0].tolist() == [1] * 5 + [0]
    assert frames[1].min() == 2


def test_drawing_changes_no_seeded_numbers():
    def play(env):
        first = env.reset(seed=3)[0]["obs"]
        return [first.tolist(), *(env.step(0)[0]["obs"].tolist() for _ in range(4))]

    assert play(pictured()) == play(MultiTaskEnv(tagged(None), schedule=Interleave("episodes")))


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # others may have loaded jax
@pytest.mark.parametrize(
    "options",
    [{"vectorization": "async"}, {"schedule": Cycle(5)}, {"schedule": Interleave("episodes")}],
    ids=str,
)
def test_every_slot_is_drawn_in_one_size(options):
    env = make_multitask_vector(tagged("rgb_array"), 2, render_mode="rgb_array", **options)
    env.reset(seed=0)
    for _ in range(12):
        assert [frame.shape for frame in env.render()] == [(6, 8, 3)] * 2
        env.step([0, 0])
    env.close()


def test_a_task_that_cannot_be_drawn_is_named_when_built():
    class Blank(CountingEnv):
        def render(self):
            raise NotImplementedError("no pencil")

    tasks = [Task("blank", env_fn=partial(Blank, render_mode="rgb_array"))]
    for world in (MultiTaskEnv, MultiTaskVectorEnv):
        with pytest.raises(ValueError, match=r"`tasks\[0\]` \('blank'\) can't .* no pencil"):
            world(tasks, render_mode="rgb_array")
    MultiTaskEnv(tasks)


def test_a_task_that_draws_nothing_leaves_the_size_to_the_others():
    class Empty(CountingEnv):
        def render(self):
            return None

    tasks = [Task("empty", env_fn=partial(Empty, render_mode="rgb_array")), *tagged("rgb_array")]
    env = MultiTaskEnv(tasks, schedule=Interleave("episodes"), render_mode="rgb_array")
    drawn = []
    for _ in tasks:
        env.reset()
        env.step(0)
        drawn.append(env.render())
    assert drawn[0] is None
    assert drawn[1].shape == drawn[2].shape == (6, 8, 3)
