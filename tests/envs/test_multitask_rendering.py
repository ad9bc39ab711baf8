"""Pictures and videos, with the running task's name in the metadata."""

from __future__ import annotations

from functools import partial

import gymnasium as gym
import pytest
from counting import CountingEnv
from gymnasium.wrappers import RecordVideo

from sb3_moe_envs import Interleave, MultiTaskEnv, Task


def pictured():
    tasks = [
        Task(f"t{tag}", env_fn=partial(CountingEnv, tag, render_mode="rgb_array")) for tag in (1, 2)
    ]
    return MultiTaskEnv(tasks, schedule=Interleave("episodes"), render_mode="rgb_array")


def test_the_running_task_is_rendered_and_named_in_the_metadata():
    env = pictured()
    assert env.metadata["render_fps"] == 7
    for name, tag in (("t1", 1), ("t2", 2), ("t1", 1)):
        env.reset()
        env.step(0)
        assert env.render().max() == tag
        assert env.metadata["task_name"] == name
    assert "task_name" not in MultiTaskEnv.metadata


@pytest.mark.filterwarnings("ignore")  # moviepy's own
def test_a_video_is_recorded_of_each_task(tmp_path):
    pytest.importorskip("moviepy", reason="needs moviepy")
    env = RecordVideo(pictured(), str(tmp_path), episode_trigger=lambda episode: True)
    names = []
    for _ in range(2):
        env.reset()
        names.append(env.metadata["task_name"])
        while not any(env.step(0)[2:4]):
            pass
    env.close()
    assert names == ["t1", "t2"]
    assert [path.stat().st_size > 0 for path in sorted(tmp_path.iterdir())] == [True, True]


def test_minatar_games_render_in_the_suite():
    pytest.importorskip("gymnax", reason="needs the minatar extra")
    env = gym.make("sb3_moe_envs:SB3MoE/MinAtar-MTRL3-v0", render_mode="rgb_array")
    for task in range(3):
        env.reset(options={"task_id": task})
        frame = env.render()
        assert frame.ndim == 3
        assert frame.shape[2] == 3
        assert env.unwrapped.metadata["task_name"] == env.unwrapped.task_names[task]
