"""Features extractors that keep the task id apart: features are ``[x | one-hot(task)]``.

A belief about the task takes the place of the one-hot where nothing tells the task.

Shapes: B batch, F features, N tasks, C channels, H height, W width.
"""

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from sb3_moe.layers.checks import one_of, whole_or_none
from sb3_moe.layers.encoder import Residual
from sb3_moe.vec_env.observations import Shape, channel_axis, image_shape_of, is_image
from sb3_moe.vec_env.task_ids import (
    BELIEF_KEY,
    EndsInOneHot,
    Tail,
    TaskIds,
    as_one_hot,
    code_key,
    has_task_key,
)


def minatar_convs(channels: int) -> nn.Sequential:
    """Return MinAtar's one convolution (arXiv 1903.03176): 16 filters of 3x3."""
    return nn.Sequential(nn.Conv2d(channels, 16, 3), nn.ReLU())


def nature_convs(channels: int) -> nn.Sequential:
    """Return the three convolutions of DQN (Mnih et al. 2015), as SB3's ``NatureCNN``."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, 8, stride=4),
        nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
    )


def impala_convs(channels: int) -> nn.Sequential:
    """Return IMPALA's three residual stages (arXiv 1802.01561, figure 3)."""
    layers: list[nn.Module] = []
    for width in (16, 32, 32):
        conv = nn.Conv2d(channels, width, 3, padding=1)
        layers += [conv, nn.MaxPool2d(3, 2, padding=1)]
        layers += [_impala_block(width), _impala_block(width)]
        channels = width
    return nn.Sequential(*layers, nn.ReLU())


def _impala_block(width: int) -> Residual:
    convs = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
    return Residual(nn.Sequential(*(layer for conv in convs for layer in (nn.ReLU(), conv))))


CONVS = {
    "minatar": minatar_convs,
    "nature": nature_convs,
    "impala": impala_convs,
}
#: ``"auto"`` chooses for each image by its size.
ENCODERS = ("flat", *CONVS, "auto")
SMALLEST = {"minatar": 3, "nature": 36, "impala": 1}


def make_convs(encoder: str, image_shape: Shape) -> nn.Sequential:
    """Build an encoder's convolutions.

    :param encoder: one of ``CONVS``
    :param image_shape: (C, H, W)
    """
    return CONVS[encoder](image_shape[0])


def map_shape_of(encoder: str, image_shape: Shape) -> Shape:
    """Return the (C, H, W) that an encoder makes of an image."""
    convs = make_convs(encoder, image_shape).to("meta")
    shape = convs(th.empty(1, *image_shape, device="meta")).shape[1:]
    return (shape[0], shape[1], shape[2])


def default_encoder(space: spaces.Space, *, normalized: bool = False) -> str:
    """Return the encoder for a space's images: ``"flat"`` if none, ``"auto"`` if several differ."""
    images = [each for each in _parts(space).values() if is_image(each)]
    found = {
        encoder_of_size(image_shape_of(each, channel_axis(each, normalized=normalized)))
        for each in images
    }
    if not found:
        return "flat"
    return found.pop() if len(found) == 1 else "auto"


def encoder_of_size(image_shape: Shape) -> str:
    """Return the encoder for an image: MinAtar's from 3x3 on, Nature's from 36x36, else flat.

    :param image_shape: (C, H, W)
    """
    for encoder in ("nature", "minatar"):
        if min(image_shape[1:]) >= SMALLEST[encoder]:
            return encoder
    return "flat"


def _parts(space: spaces.Space) -> dict[str, spaces.Space]:
    """Return the parts of an observation space by key, without the task id or belief."""
    if not isinstance(space, spaces.Dict):
        return {"": space}
    without = code_key(space)
    return {key: part for key, part in space.spaces.items() if key != without}


class TaskExtractor(EndsInOneHot, BaseFeaturesExtractor):
    """Encode observations and append the one-hot task id: (B, F) = ``[x | one-hot]``.

    The id is a Dict's ``task_id``, or the last ``num_tasks`` features (or channels) of a Box. A
    Dict's ``belief`` takes the place of the one-hot.
    Images may have their channels first or last: see
    :func:`sb3_moe.vec_env.observations.channel_axis`.

    :param observation_space: Box, or Dict with at most one Discrete ``task_id``
    :param encoder: ``"flat"``, ``"minatar"``, ``"nature"`` or ``"impala"``, for all images;
        ``"auto"``: for each image by its size, see :func:`encoder_of_size`
    :param num_tasks: number of tasks in a one-hot that is part of a Box observation
    :param features_dim: add a linear layer of this width after the convolutions; then there is no
        feature map
    :param raw: return the flattened observation and leave its encoding to the experts
    :param normalized_image: images are scaled already, so SB3's rule for the channel axis applies
        to all of them; policies set this for ``normalize_images=False``
    :raises TypeError: if a number is not a whole number
    :raises ValueError: if an argument does not fit the space
    """

    def __init__(
        self,
        observation_space: gym.Space,
        *,
        encoder: str = "flat",
        num_tasks: int | None = None,
        features_dim: int | None = None,
        raw: bool = False,
        normalized_image: bool = False,
    ) -> None:
        one_of("encoder", encoder, ENCODERS)
        whole_or_none("num_tasks", num_tasks)
        whole_or_none("features_dim", features_dim)
        super().__init__(observation_space, features_dim=1)
        self.raw = raw
        parts = _parts(observation_space)
        self.num_tasks = 0
        self._tail = None
        self._code_key = code_key(observation_space)
        self.tells_task = self._code_key != BELIEF_KEY
        if not self.tells_task:
            self.num_tasks = get_flattened_obs_dim(observation_space[BELIEF_KEY])  # type: ignore[index]
        elif num_tasks is not None or has_task_key(observation_space):
            task_ids = TaskIds(observation_space, num_tasks, "`num_tasks`")
            self.num_tasks = task_ids.num_tasks
            self._tail = task_ids.tail
        # Only an image's task planes have to be cut off. A flat Box that ends in the one-hot is
        # [x | one-hot] already.
        self._planes = self._tail if self._tail is not None and self._tail.planes else None
        self.channel_axes = {
            key: channel_axis(each, normalized=normalized_image)
            for key, each in parts.items()
            if is_image(each)
        }
        if self._planes is not None:
            parts = self._without_planes(observation_space, self._planes)
        self._choose_encoders(encoder, parts)
        if features_dim is not None and (raw or not self.encoders):
            reason = f"`encoder`={encoder!r} has none here: leave it out"
            if raw:
                reason = "`placement`='big' takes the map: give it as the first of `net_arch`"
            raise ValueError(
                f"`features_dim`={features_dim} adds a layer behind convolutions, and {reason}"
            )
        if raw and len(self.image_keys) > 1:
            raise ValueError(f"`placement`='big' takes one image key, got {self.image_keys}")
        self.map_shape: Shape | None = None
        self.image_shape: Shape | None = None
        flat_dim = sum(get_flattened_obs_dim(parts[key]) for key in self.flat_keys)
        if self._tail is not None and self._planes is None:
            flat_dim -= self.num_tasks
        image_dim = self._build_image_encoders(features_dim)
        self._features_dim = image_dim + flat_dim + self.num_tasks

    @property
    def shows_planes(self) -> bool:
        """Whether the id is that of planes of an image, which are cut off."""
        return self._planes is not None

    def _choose_encoders(self, encoder: str, parts: dict[str, spaces.Space]) -> None:
        """Choose an encoder for each image; all other parts of the observation stay flat."""
        shapes = {
            key: image_shape_of(each, self.channel_axes[key])
            for key, each in parts.items()
            if is_image(each)
        }
        if encoder in CONVS and not shapes:
            raise ValueError(
                f"`encoder`={encoder!r} needs an image (a Box of three axes), got "
                f"{self._observation_space}; 'flat' takes anything"
            )
        by_key = {
            key: encoder_of_size(shape) if encoder == "auto" else encoder
            for key, shape in shapes.items()
        }
        self.encoders = {key: name for key, name in by_key.items() if name != "flat"}
        self.image_keys = list(self.encoders)
        self.image_shapes = {key: shapes[key] for key in self.image_keys}
        self.flat_keys = [key for key in parts if key not in self.encoders]
        # If exactly one image is encoded, its own encoder replaces "auto".
        self.encoder = self.encoders[self.image_keys[0]] if len(self.image_keys) == 1 else encoder

    def _without_planes(self, space: Any, planes: Tail) -> dict[str, spaces.Space]:
        """Return the space of the image without the planes that show the task."""
        axis = self.channel_axes[""] = planes.axis + 3
        num_channels = space.shape[axis] - self.num_tasks
        if num_channels < 1:
            raise ValueError(
                f"`num_tasks`={self.num_tasks} leaves no channel of {space.shape[axis]}"
            )
        shown = np.s_[num_channels:]
        low = np.delete(space.low, shown, axis)
        high = np.delete(space.high, shown, axis)
        return {"": spaces.Box(low, high, dtype=space.dtype)}

    def _build_image_encoders(self, linear: int | None) -> int:
        self.convs = nn.ModuleList()
        self.linears = nn.ModuleList()
        alone = len(self.image_keys) == 1 and not self.flat_keys
        dim = 0
        for key, shape in self.image_shapes.items():
            encoder = self.encoders[key]
            map_shape = map_shape_of(encoder, shape)
            if self.raw:
                self.image_shape = shape
                dim += math.prod(shape)
                continue
            self.convs.append(make_convs(encoder, shape))
            if linear is not None:
                layers = (nn.Linear(math.prod(map_shape), linear), nn.ReLU())
                self.linears.append(nn.Sequential(*layers))
            elif alone:
                self.map_shape = map_shape
            dim += math.prod(map_shape) if linear is None else linear
        return dim

    def forward(self, observations: PyTorchObs) -> Tensor:
        """Return the features (B, F)."""
        by_key = observations if isinstance(observations, dict) else {"": observations}
        task = None if self._code_key is None else by_key[self._code_key]
        if self._planes is not None:
            task = as_one_hot(self._planes.codes(by_key[""]))
            by_key = {"": self._planes.split(by_key[""])[0]}
        parts = []
        for i, key in enumerate(self.image_keys):
            image = by_key[key]
            image = image.permute(0, 3, 1, 2) if self.channel_axes[key] == 2 else image
            parts.append(self._encode(i, image))
        parts += [by_key[key].flatten(1) for key in self.flat_keys]
        if task is not None:
            parts.append(task.flatten(1))
        return parts[0] if len(parts) == 1 else th.cat(parts, 1)

    def _encode(self, i: int, image: Tensor) -> Tensor:
        if self.raw:
            return image.flatten(1)
        encoded = self.convs[i](image).flatten(1)
        return self.linears[i](encoded) if len(self.linears) else encoded
