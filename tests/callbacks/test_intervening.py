"""Remedies against the loss of plasticity, at their steps and at task switches."""

import arena
import numpy as np
import pytest
import torch as th
from learners import learner
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv
from toy import Toy, pinned, toy_vec_env

import sb3_moe
from sb3_moe import presets
from sb3_moe.callbacks import (
    EWCCallback,
    PlasticityCallback,
    ReDoCallback,
    ResetHeadsCallback,
    ShrinkAndPerturbCallback,
    TaskGradientCallback,
    TaskSwitchCallback,
    collect_probe,
)
from sb3_moe.saving.files import Record
from sb3_moe.vec_env import MultiTaskReplayBuffer
from sb3_moe.vec_env.kept_rows import Reservoir


def make(algo=PPO, env=None, policy="MoeMultiInputPolicy", **kwargs):
    exploration = {"exploration_fraction": 0.5} if algo is DQN else {}
    return learner(algo, env, policy, **exploration, **kwargs)


class Weights(ResetHeadsCallback):
    """Note the steps at which a remedy acts."""

    def __init__(self, every):
        super().__init__(every)
        self.steps = []

    def act(self, step):
        self.steps.append(step)
        return super().act(step)


def test_a_remedy_acts_every_so_many_steps_but_neither_before_training_nor_at_its_end():
    callback = Weights(128)
    make().learn(512, callback=callback)
    assert callback.steps == [128, 256, 384]


@pytest.mark.covering
@pytest.mark.parametrize(("new", "through"), [(False, None), (True, "zip"), (True, "moe")])
def test_what_falls_due_as_a_run_ends_is_done_as_the_next_goes_on(new, through, tmp_path):
    model, callback, steps = make(), Weights(64), []
    for _ in range(3):
        callback = Weights(64) if new else callback
        model.learn(64, callback=callback, reset_num_timesteps=False)
        steps += callback.steps if new else []
        if through == "zip":
            model.save(tmp_path / "a.zip")
            model = PPO.load(tmp_path / "a.zip", model.get_env(), device="cpu")
        elif through == "moe":
            sb3_moe.save(model, tmp_path / "a")
            model = sb3_moe.load(tmp_path / "a", model.get_env(), device="cpu")
    assert (steps or callback.steps) == [64, 128]
    model.learn(128, callback=(again := Weights(32)))  # a run from its beginning
    assert again.steps == [64]


@pytest.mark.parametrize("algo", [PPO, DQN])
@pytest.mark.parametrize("policy", ["MultiInputPolicy", "MoeMultiInputPolicy"])
def test_redo_restarts_what_sleeps_and_logs_how_many(algo, policy):
    model = make(algo, policy=policy)
    model.learn(64)
    net = model.policy.q_net.q_net if algo is DQN else model.policy.mlp_extractor.policy_net
    first = next(m for m in net.modules() if isinstance(m, th.nn.Linear))
    first.bias.data[:5] = -1e4 if algo is DQN else 0.0
    first.weight.data[:5] = 0.0
    model.learn(128, callback=ReDoCallback(64, tau=0.0))
    assert model.logger.name_to_value[f"plasticity/redo/{'qf' if algo is DQN else 'pi'}.0"] >= 0
    assert first.weight.data[:5].abs().sum() > 0


def test_redo_waits_for_the_first_episode_that_hindsight_can_look_back_on():
    hindsight = {"replay_buffer_class": HerReplayBuffer, "policy": "MultiInputPolicy"}
    env = DummyVecEnv([lambda: BitFlippingEnv(n_bits=12, max_steps=40)])
    model = make(DQN, env, learning_starts=60, batch_size=8, **hindsight)
    model.learn(20, callback=ReDoCallback(8))
    assert not any("redo" in name for name in model.logger.name_to_value)
    model.learn(30, callback=ReDoCallback(24), reset_num_timesteps=False)
    assert any("redo" in name for name in model.logger.name_to_value)


class Noting(ReDoCallback):
    """Note when it is asked, and whether it could."""

    def __init__(self, every, **kwargs):
        super().__init__(every, **kwargs)
        self.asked = []

    def intervene(self):
        done = super().intervene()
        self.asked.append((self.model.num_timesteps, done))
        return done


@pytest.mark.parametrize("algorithm", ["SAC", "DQN"])
def test_by_gradients_it_waits_for_the_first_update_of_a_learn(algorithm):
    model = arena.make(algorithm, "MoeMlpPolicy", net_arch=[8], placement="none")
    model.learn(24)
    for parameter in model.policy.parameters():  # as after loading a file
        parameter.grad = None
    callback = Noting(8, criterion="gradient")
    model.learn(24, callback=callback, reset_num_timesteps=False)
    assert callback.asked[-1][1] is True
    model.learn(24, callback=(again := Noting(8, criterion="gradient")), reset_num_timesteps=False)
    # What was due as the last training ended is done once gradients are known.
    assert [done for _, done in again.asked][:2] == [algorithm == "DQN", True]


@pytest.mark.parametrize(
    "options", [presets.PACO, {"net_arch": [], "placement": "none"}], ids=["PaCo", "no layer"]
)
def test_a_policy_without_a_layer_to_treat_is_refused_before_training(options):
    model = arena.make("PPO", "MoeMultiInputPolicy", toy_vec_env((0, 1, 2)), **options)
    with pytest.raises(ValueError, match="`policy` must have a hidden layer between linear"):
        model.learn(10_000, callback=ReDoCallback(1_000_000))


def test_trpos_actor_keeps_no_gradient_to_judge_by():
    model = arena.make("TRPO", "MoeMlpPolicy", net_arch=[8], placement="none")
    with pytest.raises(ValueError, match=r"ReDoCallback\(criterion='gradient'\) can't be used"):
        model.learn(8, callback=ReDoCallback(8, criterion="gradient"))


def test_a_switch_is_noticed_once_and_logged(capsys):
    model, callback = make(), TaskSwitchCallback(verbose=1)
    model.learn(512, callback=callback)
    assert callback.switches == 1
    assert model.logger.name_to_value["continual/task"] == 1
    assert "Task b begins at 256 steps" in capsys.readouterr().out


class Stop(TaskSwitchCallback):
    """End training right after the first switch."""

    def _on_step(self):
        return self.switches == 0


@pytest.mark.parametrize(("kind", "size"), [("clear", 0), ("reservoir", 30)])
def test_at_a_switch_the_replay_buffer_is_cleared_or_a_sample_of_it_stays(kind, size):
    model = make(DQN)
    model.learn(600, callback=Stop(replay_buffer=kind, reservoir_share=0.2))
    assert 0 < model.num_timesteps < 600
    assert size <= model.replay_buffer.pos <= size + 2
    assert (model.replay_buffer.observations["task_id"][:size] == 0).all()
    assert not model.replay_buffer.full


def test_a_long_turn_leaves_the_reservoir_where_it_is():
    model = make(DQN)
    model.learn(900, TaskSwitchCallback(replay_buffer="reservoir", reservoir_share=0.2))
    tasks = model.replay_buffer.observations["task_id"]
    assert model.replay_buffer.full
    assert (tasks[:30] == 0).all()
    assert (tasks[30:] == 1).all()


def filled(values, buffer):
    """Write rows whose reward is their number."""
    for value in values:
        obs = {"obs": np.zeros((1, 6)), "task_id": np.zeros((1,))}
        buffer.add(obs, obs, np.zeros((1, 1)), np.array([value]), np.array([False]), [{}])


def test_every_transition_so_far_is_equally_likely_to_be_in_the_reservoir():
    counts = np.zeros(90)
    buffer = make(DQN, toy_vec_env((0,)), buffer_size=60).replay_buffer
    for seed in range(300):
        buffer.reset()
        rng, reservoir = np.random.default_rng(seed), Reservoir(0.5)
        for block in range(3):
            filled(range(30 * block, 30 * block + 30), buffer)
            reservoir.reduce(buffer, 30, rng)
        kept = buffer.rewards[: buffer.pos, 0].astype(int)
        assert len(set(kept)) == 30
        counts[kept] += 1
    # Each of 90 is kept with probability 1/3: 100 of 300, standard deviation 8.
    assert abs(counts.reshape(3, 30).mean(1) - 100).max() < 4
    assert abs(counts - 100).max() < 40


def test_exploration_starts_again_at_a_switch():
    rates = []

    class Watch(TaskSwitchCallback):
        def _on_step(self):
            rates.append((self.switches, self.model.exploration_rate))
            return True

    make(DQN).learn(600, callback=Watch(restart_exploration=True))
    before = [rate for switches, rate in rates if switches == 0]
    after = [rate for switches, rate in rates if switches == 1]
    assert min(before) < 0.6
    assert after[1] > 0.95
    assert after[-1] < 0.5


def test_the_learning_rate_starts_again_at_a_switch():
    model = make(learning_rate=lambda progress: progress)
    model.learn(512, callback=TaskSwitchCallback(restart_learning_rate=True))
    # The switch was half way: the last update is as far from it as half the run.
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.5)


@pytest.mark.parametrize("algo", [PPO, A2C])
def test_every_tasks_advantages_and_gradient_are_measured(algo, tmp_path):
    model = make(algo, pinned(), **({"batch_size": 96} if algo is PPO else {}))
    callback = TaskGradientCallback(96, log_path=tmp_path, batch_size=8)
    model.learn(192, callback=callback)
    with np.load(tmp_path / "diagnostics.npz") as saved:
        assert saved["advantage_variance"].shape == (2, 3)
        assert (saved["gradient_norm_per_task"] > 0).all()
    assert model.logger.name_to_value["plasticity/gradient_norm/c"] > 0


def test_a_gradient_that_was_due_when_a_run_stopped_is_measured_when_it_goes_on(tmp_path):
    def record():
        return TaskGradientCallback(64, log_path=tmp_path, batch_size=8)

    model = make(env=pinned())  # 3 x 32 steps a rollout
    model.learn(96, callback=record())
    # Another callback that shares the file has a row of the step at which the run stopped.
    Record(tmp_path / "diagnostics.npz", {"task_names": np.array(["a", "b", "c"])}).add(
        96, {"other": 1.0}
    )
    model.learn(96, callback=(callback := record()), reset_num_timesteps=False)
    norms = callback.record.rows["gradient_norm_per_task"]
    assert callback.record.rows["steps"].tolist() == [0, 96]
    assert np.isfinite(norms).all()


def test_a_task_that_a_rollout_lacks_has_no_gradient():
    callback = TaskGradientCallback(64)
    make(env=toy_vec_env((0,), (1,))).learn(64, callback=callback)
    assert np.isnan(callback.record.rows["gradient_norm_per_task"][0]).tolist() == [0, 0, 1]


@pytest.mark.parametrize("algo", [TRPO, MaskablePPO, RecurrentPPO])
def test_gradients_of_an_algorithm_with_another_loss_are_refused_by_name(algo):
    policy = "MultiInputLstmPolicy" if algo is RecurrentPPO else "MultiInputPolicy"
    model = algo(policy, pinned(), n_steps=8, batch_size=24, device="cpu")
    message = f"must be of PPO or A2C, got {algo.__name__}"
    with pytest.raises(ValueError, match=message):
        TaskGradientCallback(24).init_callback(model)


@pytest.mark.parametrize("task", [lambda: Toy((0,)), "Pendulum-v1"])
def test_the_gradient_is_that_of_ppos_loss(task):
    """With one minibatch of one task, it is what PPO clips in its first step."""
    env = sb3_moe.make_multitask_vec_env([task], task_id="info")
    policy = "MlpPolicy" if task == "Pendulum-v1" else "MultiInputPolicy"
    model = make(env=env, policy=policy, batch_size=32, max_grad_norm=1e9)
    callback = TaskGradientCallback(32, batch_size=10**6)
    model.learn(32, callback=callback)
    gradients = [p.grad for p in model.policy.parameters() if p.grad is not None]
    norm = float(th.stack([g.norm() for g in gradients]).norm())
    assert callback.record.rows["gradient_norm_per_task"][0, 0] == pytest.approx(norm, rel=1e-4)


REFUSED = [
    (lambda: ReDoCallback(0), "`every` must be at least 1 global step, got 0"),
    (lambda: ShrinkAndPerturbCallback(1, shrink=2), r"`shrink` must be in \[0, 1\], got 2"),
    (lambda: TaskSwitchCallback(replay_buffer="burn"), "one of .*'clear', 'reservoir'"),
    (lambda: EWCCallback(1.0, decay=2), r"`decay` must be in \[0, 1\], got 2"),
    (lambda: collect_probe(toy_vec_env((0, 1), (1, 0)), 4), "`env` must not change its tasks"),
]
NO_LAYER = {"policy_kwargs": {"placement": "none", "net_arch": []}}
# Callback, algorithm, its arguments, message.
UNFIT = [
    (TaskSwitchCallback(replay_buffer="clear"), PPO, {}, "'keep' for on-policy algorithms"),
    (TaskSwitchCallback(restart_exploration=True), PPO, {}, "needs an algorithm with an epsilon"),
    (
        TaskSwitchCallback(replay_buffer="reservoir"),
        DQN,
        {"replay_buffer_class": MultiTaskReplayBuffer},
        "not a MultiTaskReplayBuffer, which balances tasks itself",
    ),
    (TaskGradientCallback(1), DQN, {}, "must be of PPO or A2C, got DQN"),
    (PlasticityCallback(9), PPO, NO_LAYER, "must have a hidden layer with a known activation"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("callback", "algo", "options", "message"), UNFIT)
def test_an_algorithm_that_does_not_fit_is_refused(callback, algo, options, message):
    with pytest.raises(ValueError, match=message):
        make(algo, **options).learn(64, callback=callback)
