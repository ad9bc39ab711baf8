"""Studies of PPO, DQN and SAC that are killed at random moments, and what they come to."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from sb3_moe.study.folder import survey
from sb3_moe.study.grid import load_study

PATIENCE = 600
# One kill in so many comes at any time from the start of the process, the others in training.
ANYWHERE = 4
# A kill comes within this share of the whole training, so that several come before its end.
SHARE = 3

_CLASSIC = "tasks: [CartPole-v1, Acrobot-v1]"
_PENDULUMS = "tasks: [Pendulum-v1, ['sb3_moe_envs:SB3MoE/Pendulum-v0', {g: 3.7}]]"
_STORED = "buffer_size: 2000, learning_starts: 64, batch_size: 32, train_freq: 4"
_ALGORITHMS = {
    "PPO": (_CLASSIC, "{n_steps: 32, batch_size: 64, n_epochs: 2}", 1024),
    "DQN": (_CLASSIC, f"{{{_STORED}}}", 512),
    "SAC": (_PENDULUMS, f"{{{_STORED}}}", 384),
}


def write_study(algorithm: str, folder: Path) -> Path:
    """Write the file of a study whose runs take seconds and snapshots all the time."""
    tasks, arguments, steps = _ALGORITHMS[algorithm]
    path = folder / f"{algorithm}.yaml"
    path.write_text(f"""
name: {algorithm.lower()}
algorithm: {algorithm}
preset: none
{tasks}
regimes: [crl]
architectures: {{soft: {{placement: middle, num_experts: 2, net_arch: [16]}}}}
arguments: {arguments}
normalize: PerTaskVecNormalize
seeds: 1
n_envs: 2
steps_per_task: {steps}
evaluation: {{points: 4, episodes: 2}}
checkpoints: 15
random_episodes: 4
""")
    return path


class Killed:
    """A study in a folder, started again and again.

    :param path: its file
    :param out: its folder
    """

    def __init__(self, path: Path, out: Path) -> None:
        self.path, self.out = path, out

    def start(self) -> subprocess.Popen[bytes]:
        """Start or go on, in a group of processes that can be killed together."""
        command = [sys.executable, "-m", "sb3_moe", "study", "run", str(self.path)]
        return subprocess.Popen(
            [*command, "--out", str(self.out), "--processes", "2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def finish(self) -> float:
        """Run to the end; return the seconds from the first sign of life on."""
        process = self.start()
        begun = self._wait_for_life(process)
        assert process.wait(PATIENCE) == 0, self.log()
        return time.monotonic() - begun

    def kill(self, draw: random.Random, training: float) -> bool:
        """Start, and kill at a random moment; say whether it was still at work then.

        :param draw: the generator of moments
        :param training: seconds in which an undisturbed one trains
        """
        process, begun = self.start(), time.monotonic()
        if draw.randrange(ANYWHERE):
            begun = self._wait_for_life(process)
        end = begun + draw.uniform(0, training / SHARE)
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        if process.poll() is not None:
            assert process.returncode == 0, self.log()
            return False
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True

    def _wait_for_life(self, process: subprocess.Popen[bytes]) -> float:
        """Wait until a run says how far it is, or all have ended; return the moment."""
        before, end = self._beats(), time.monotonic() + PATIENCE
        while process.poll() is None and self._beats() == before:
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.01)
        return time.monotonic()

    def _beats(self) -> dict[Path, int]:
        found = {}
        for path in self.out.glob("runs/*/progress-*.csv"):
            with contextlib.suppress(FileNotFoundError):
                found[path] = path.stat().st_mtime_ns
        return found

    def log(self) -> str:
        """Return what the runs printed and why they failed."""
        files = [*self.out.glob("runs/*/log.txt"), *self.out.glob("runs/*/error.json")]
        return "\n".join(path.read_text()[-2000:] for path in files)

    def results(self) -> dict[tuple[str, ...], Any]:
        """Return the scores, diagnostics, weights and optimizers of every run that is done."""
        found: dict[tuple[str, ...], Any] = {}
        for job in survey(load_study(str(self.path)).runs(), self.out):
            assert job.state == ("done", ""), f"{job.run.name}: {job.state}\n{self.log()}"
            for kind, arrays in (("s", job.folder.scores()), ("d", job.folder.diagnostics())):
                for name, values in arrays.items():
                    # Since the measurement before, whose weights a new process doesn't have.
                    if not name.startswith("weight_change/"):
                        found[job.run.name, kind, name] = values
            model = load_file(job.folder.path / "model.moe")
            del model["crc32"]  # of all of the file, with the versions and times in it
            found |= {(job.run.name, "model", name): values for name, values in model.items()}
        return found
