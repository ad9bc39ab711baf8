"""A run that is stopped and resumed in a new process is the run that was never stopped."""

import hashlib
import subprocess
import sys

import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils import EzPickle
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_moe  # noqa: F401  registers the policies' names
from sb3_moe.callbacks import MultiTaskEvalCallback, SnapshotCallback
from sb3_moe.saving.snapshot import DamagedError, resume
from sb3_moe.vec_env import MultiTaskReplayBuffer, VecBelief, make_multitask_vec_env
from sb3_moe.vec_env.belief import belief_of
from sb3_moe_envs import Cycle, MultiTaskEnv

CLASSIC = ["CartPole-v1", ("Acrobot-v1", {"max_episode_steps": 50})]
TOTAL = 256


def ppo(env):
    return PPO(
        "MoeMultiInputPolicy", env, n_steps=16, batch_size=64, n_epochs=2, device="cpu", seed=1
    )


def dqn(policy, env, **kwargs):
    return DQN(
        policy,
        env,
        **kwargs,
        learning_starts=50,
        buffer_size=1000,
        target_update_interval=100,
        train_freq=8,
        device="cpu",
        seed=1,
    )


def normalized():
    env = make_multitask_vec_env(CLASSIC, 4, seed=0)
    return ppo(VecNormalize(env, norm_obs_keys=["obs"]))


def with_belief(algorithm):
    """Build a model with a belief, below or above what normalizes its observations."""
    env = make_multitask_vec_env(CLASSIC, 4, seed=0, task_id="info")
    options = {"train_freq": 8, "gradient_steps": 4, "predicts": "both"}
    if algorithm is ppo:
        return ppo(VecBelief(VecNormalize(env), 3, **options))
    belief = VecBelief(env, 3, **options)
    return dqn("MultiInputPolicy", VecNormalize(belief, norm_obs_keys=["obs"]))


def runs():
    cycle = Cycle(steps_per_task=128)
    return {
        "ppo-normalized": normalized,
        "dqn-classic": lambda: dqn(
            "MoeMultiInputPolicy",
            make_multitask_vec_env(CLASSIC, 2, seed=0, schedule=cycle),
            replay_buffer_class=MultiTaskReplayBuffer,
        ),
        "ppo-belief": lambda: with_belief(ppo),
        "dqn-belief": lambda: with_belief(dqn),
    }


def digest(model):
    weights = b"".join(value.numpy().tobytes() for value in model.policy.state_dict().values())
    if (belief := belief_of(model.env)) is not None:
        weights += b"".join(array.tobytes() for array in belief.models._arrays().values())
    return hashlib.sha256(weights).hexdigest()


def finish(snapshot, total=TOTAL):
    """Go on from a snapshot to the end, and return a digest of the weights."""
    model, _ = resume(snapshot)
    assert 0 < model.num_timesteps < total
    model.learn(total - model.num_timesteps, reset_num_timesteps=False)
    return digest(model)


@pytest.mark.parametrize("name", runs())
def test_weights_are_the_same_bit_for_bit_after_resuming_in_a_new_process(name, tmp_path):
    model = runs()[name]()
    model.learn(TOTAL, callback=SnapshotCallback(96, tmp_path, keep=9))
    first = min(tmp_path.glob("checkpoints/*"))
    done = subprocess.run(
        [sys.executable, __file__, str(first)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest(model)


def test_scores_of_a_resumed_run_are_those_of_one_that_was_never_stopped(tmp_path):
    def callbacks(folder):
        evaluation = MultiTaskEvalCallback(128, 1, log_path=folder, deterministic=False)
        return [evaluation, SnapshotCallback(128, folder)]

    whole = callbacks(tmp_path / "whole")
    normalized().learn(TOTAL, callback=whole)
    normalized().learn(128, callback=callbacks(tmp_path / "stopped"))
    model, _ = resume(tmp_path / "stopped")
    again = callbacks(tmp_path / "stopped")
    model.learn(TOTAL - model.num_timesteps, callback=again, reset_num_timesteps=False)
    expected, got = whole[0].scores, again[0].scores
    assert got["steps"].tolist() == expected["steps"].tolist()
    assert got["returns"].tolist() == expected["returns"].tolist()


def in_turn():
    return ppo(make_multitask_vec_env(CLASSIC, 4, seed=0, schedule=Cycle(steps_per_task=128)))


def test_a_run_resumed_at_a_switch_evaluates_the_switch_once(tmp_path):
    def callbacks():
        evaluation = MultiTaskEvalCallback(1000, 1, log_path=tmp_path)
        return [evaluation, SnapshotCallback(64, tmp_path, keep=9)]

    in_turn().learn(TOTAL, callback=callbacks())
    model, _ = resume(tmp_path / "checkpoints" / "step-000000000128.zip")
    again = callbacks()
    model.learn(TOTAL - 128, callback=again, reset_num_timesteps=False)
    assert again[0].scores["steps"].tolist() == [0, 128, 256]
    assert again[0].scores["trained"].tolist() == [0, 0, 1]


def kept(folder):
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("checkpoints/*"))


def test_a_new_run_in_a_used_folder_is_refused_and_leaves_what_is_there(tmp_path):
    def callbacks():
        evaluation = MultiTaskEvalCallback(64, 1, log_path=tmp_path)
        return [evaluation, SnapshotCallback(64, tmp_path)]

    in_turn().learn(128, callback=callbacks())
    scores = (tmp_path / "scores.npz").read_bytes()
    rule = r"snapshots of another run \(the latest at step 128\), and this one is at step 0"
    with pytest.raises(ValueError, match=rule + ".*`overwrite=True` to remove them"):
        in_turn().learn(64, callback=callbacks())
    assert kept(tmp_path) == [64, 128]
    assert (tmp_path / "scores.npz").read_bytes() == scores


def test_a_new_run_may_overwrite_a_used_folder_and_the_latest_snapshots_are_kept(tmp_path, capsys):
    for total in (256, 128):
        model = ppo(make_multitask_vec_env(CLASSIC, 4, seed=0))
        callback = SnapshotCallback(64, tmp_path, keep=1, overwrite=True, verbose=1)
        model.learn(total, callback=callback)
    assert kept(tmp_path) == [128]
    assert "Snapshot at 64 steps" in capsys.readouterr().out


def test_a_run_goes_on_in_its_folder_wherever_it_was_interrupted(tmp_path):
    class Interrupt(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 160:
                raise KeyboardInterrupt
            return True

    model = ppo(make_multitask_vec_env(CLASSIC, 4, seed=0))
    with pytest.raises(KeyboardInterrupt):
        model.learn(256, callback=[Interrupt(), SnapshotCallback(64, tmp_path)])
    model.learn(64, callback=SnapshotCallback(64, tmp_path, keep=9), reset_num_timesteps=False)
    assert kept(tmp_path) == [64, 128, 224]


def test_a_run_that_goes_on_from_an_earlier_snapshot_drops_later_ones(tmp_path):
    model = ppo(make_multitask_vec_env(CLASSIC, 4, seed=0))
    model.learn(256, callback=SnapshotCallback(64, tmp_path, keep=9))
    model, env = resume(tmp_path / "checkpoints" / "step-000000000128.zip")
    assert abs(env.reset()["obs"][:2, :4]).max() <= 0.05  # new episodes of CartPole
    callback = SnapshotCallback(64, tmp_path, keep=9)
    callback.init_callback(model)
    callback.on_training_start({}, {})
    assert kept(tmp_path) == [64, 128]


class Rebuilt(CartPoleEnv, EzPickle):
    """CartPole, pickled as MuJoCo's environments are: by building itself again."""

    def __init__(self):
        CartPoleEnv.__init__(self)
        EzPickle.__init__(self)


def test_a_task_without_a_state_starts_a_new_episode_and_resume_says_so(tmp_path):
    env = DummyVecEnv([lambda: Monitor(Rebuilt())])
    model = PPO("MlpPolicy", env, n_steps=16, batch_size=16, device="cpu")
    model.learn(32, callback=SnapshotCallback(16, tmp_path))
    with pytest.warns(UserWarning, match="no state that can be saved: it starts a new episode"):
        model, _ = resume(tmp_path)
    model.learn(16, reset_num_timesteps=False)


def test_a_schedule_goes_on_where_a_task_starts_a_new_episode(tmp_path):
    tasks = [Rebuilt, ("CartPole-v1", {"sutton_barto_reward": True})]
    env = DummyVecEnv([lambda: Monitor(MultiTaskEnv(tasks, schedule=Cycle(32)))])
    model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=16, device="cpu", seed=0)
    model.learn(48, callback=SnapshotCallback(16, tmp_path))
    with pytest.warns(UserWarning, match="it starts a new episode"):
        _, env = resume(tmp_path)
    env.reset()
    assert env.env_method("get_task") == [1]


def test_a_folder_without_a_snapshot_says_which_call_writes_one(tmp_path):
    with pytest.raises(ValueError, match=r"train with SnapshotCallback\(every=..."):
        resume(tmp_path)


def small_run(folder):
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, device="cpu")
    model.learn(48, callback=SnapshotCallback(16, folder, keep=3))
    return sorted((folder / "checkpoints").iterdir())


def test_a_device_that_is_not_there_is_named_before_anything_is_read(tmp_path):
    with pytest.raises(RuntimeError, match=r"^Expected one of cpu, cuda.*: gpu$"):
        resume(tmp_path / "nowhere", device="gpu")


def test_where_the_latest_snapshot_is_damaged_the_run_goes_on_from_the_one_before(tmp_path):
    first, second, third = small_run(tmp_path)
    third.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="goes on from") as warned:
        model, _ = resume(tmp_path)
    for each, damaged, before in zip(warned, (third, second), (second, first), strict=True):
        assert str(each.message).startswith(f"{damaged.name} is not what SnapshotCallback wrote")
        assert str(each.message).endswith(f": the run goes on from {before.name}")
    assert warned[0].filename == __file__
    assert model.num_timesteps == 16
    model.learn(32, callback=SnapshotCallback(16, tmp_path, keep=3), reset_num_timesteps=False)
    assert resume(tmp_path / "checkpoints")[0].num_timesteps == 48
    for path in (first, second, third):
        path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="goes on from"),
        pytest.raises(DamagedError, match=f"{first.name} is not what SnapshotCallback wrote"),
    ):
        resume(tmp_path)


if __name__ == "__main__":
    import torch as th

    th.set_num_threads(1)
    print(finish(sys.argv[1]))
