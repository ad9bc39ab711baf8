"""The recording of an agent that plays.

Shapes: T steps, A choices of one kind, D components of an action, E experts, V critics.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sb3_moe.policies.networks import Kind
from sb3_moe.saving.files import write_file
from sb3_moe.watching.films import FILMS, write_video
from sb3_moe.watching.frames import Frame
from sb3_moe.watching.replay_page import in_frame, page_of

if TYPE_CHECKING:
    from sb3_moe.watching.importance import Importance

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts, as a replay names it.

    :param name: network and place, such as ``"pi.middle"``
    :param num_experts: E
    :param router: name of the router
    """

    name: str
    num_experts: int
    router: str


@dataclass(frozen=True)
class DormantUnits:
    """How much of a hidden layer is dormant on the observations that the agent saw.

    :param layer: its name
    :param share: of its units
    :param per_expert: each expert's own share; one entry for a dense layer
    :param reached: whether each expert got any observation; one entry where all did
    """

    layer: str
    share: float
    per_expert: tuple[float, ...]
    reached: tuple[bool, ...]


@dataclass
class Track:
    """The recording of one task.

    Step t holds what the agent saw, its preferences and values, its action, and the reward.

    :param task: its name
    :param frames: the different images, uint8 (height, width, 3)
    :param frame_T: index in ``frames`` of each step's image, -1 for none
    :param actions_TD: as the environment took them
    :param preferences: (T, A) for each choice that makes up an action
    :param values_TV: of each critic
    :param rewards_T: as the environment gave them
    :param starts_T: whether an episode begins with the step
    :param gates: (T, E) by mixture, the mean over tokens
    :param returns: of the episodes that ended
    :param dormant: how much of each hidden layer is dormant
    :param actions: the task's names of its actions, if it has any
    :param belief_TE: the belief that each model explains the episode; None without a belief
    """

    task: str
    frames: list[Frame]
    frame_T: npt.NDArray[np.int64]
    actions_TD: Floats
    preferences: list[Floats]
    values_TV: Floats
    rewards_T: Floats
    starts_T: npt.NDArray[np.bool_]
    gates: dict[str, Floats]
    returns: list[float]
    dormant: list[DormantUnits]
    actions: list[str]
    belief_TE: Floats | None = None

    def __len__(self) -> int:
        return len(self.rewards_T)


@dataclass
class Run:
    """All tasks, played by the agent as it is or with an expert switched off.

    :param label: what was changed
    :param off: the experts that were off, by mixture
    :param tracks: one for each task
    """

    label: str
    off: dict[str, list[int]]
    tracks: list[Track]


@dataclass
class Replay:
    """The recording of an agent that plays, with its routing.

    :param title: of the page
    :param task_names: of all tasks of the environment
    :param kind: what the tracks' ``preferences`` are
    :param critics: names of the critics
    :param mixtures: in the order of the policy
    :param runs: the first is the agent as it is; the same seed for all
    :param bounds: largest absolute value of each component of a continuous action, 0: unbounded
    :param no_frames: why there are no images, or no more from some step on; None if all are there
    :param importance: returns with each expert off, if these were measured
    """

    title: str
    task_names: list[str]
    kind: Kind
    critics: list[str]
    mixtures: list[Mixture]
    runs: list[Run]
    bounds: list[float]
    no_frames: str | None = None
    importance: Importance | None = None

    def __repr__(self) -> str:
        tracks = [track for run in self.runs for track in run.tracks]
        tasks = list(dict.fromkeys(track.task for track in tracks))
        return f"Replay({self.title!r}, tasks={tasks}, steps={sum(map(len, tracks))})"

    def to_html(self) -> str:
        """Return the page: one file, which needs no network."""
        return page_of(self)

    def save(self, path: str | Path) -> Path:
        """Write the page.

        :param path: of an HTML file; its folder is made
        :raises ValueError: if the name has the suffix of a film
        """
        path = Path(path)
        if path.suffix.lower() in FILMS:
            raise ValueError(
                f"`path` must name an HTML file, got {path.name!r}: `to_video` writes films"
            )
        write_file(path, self.to_html().encode())
        return path

    def to_video(self, path: str | Path, **kwargs: Any) -> Path:
        """Write a film of all tasks with the gates drawn in.

        :param path: ends in ``.gif``, or in ``.mp4``, which takes the extra ``video``
        :param kwargs: as in ``sb3_moe.watching.films.write_video``
        """
        return write_video(self, Path(path), **kwargs)

    def _repr_html_(self) -> str:
        return in_frame(self.to_html())
