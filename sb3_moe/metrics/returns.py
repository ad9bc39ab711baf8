"""Returns of uniformly random actions, measured: ``python -m benchmarks.random_returns``."""

from typing import NamedTuple


class Measured(NamedTuple):
    """A mean over episodes.

    :param mean: of the return
    :param standard_error: of that mean
    :param episodes: how many
    """

    mean: float
    standard_error: float
    episodes: int


# By suite and task: a suite's common action space is part of what random actions do.
RANDOM: dict[str, dict[str, Measured]] = {
    "MinAtar/MTRL3": {
        "SpaceInvaders": Measured(3.125, 0.169, 200),
        "Breakout": Measured(0.565, 0.06, 200),
        "Asterix": Measured(0.515, 0.059, 200),
    },
    "MinAtar/CRL3": {
        "SpaceInvaders": Measured(3.125, 0.169, 200),
        "Breakout": Measured(0.565, 0.06, 200),
        "Asterix": Measured(0.515, 0.059, 200),
    },
    "MinAtar/All5": {
        "Asterix": Measured(0.475, 0.053, 200),
        "Breakout": Measured(0.52, 0.051, 200),
        "Freeway": Measured(0.175, 0.03, 200),
        "Seaquest": Measured(0.125, 0.033, 200),
        "SpaceInvaders": Measured(3.045, 0.165, 200),
    },
    "Atari/Two": {
        "Pong": Measured(-20.35, 0.182, 20),
        "Breakout": Measured(0.05, 0.05, 20),
    },
    "Atari/Five": {
        "Asterix": Measured(1.65, 0.335, 20),
        "Breakout": Measured(0.15, 0.082, 20),
        "Pong": Measured(-20.2, 0.213, 20),
        "Seaquest": Measured(0.25, 0.176, 20),
        "SpaceInvaders": Measured(3.9, 0.811, 20),
    },
    "Classic/CartPole4": {
        "Earth": Measured(21.71, 0.766, 200),
        "Moon": Measured(25.405, 1.062, 200),
        "LongPole": Measured(43.44, 1.609, 200),
        "WeakMotor": Measured(29.19, 0.906, 200),
    },
    "Classic/Mixed3": {
        "CartPole": Measured(17.66, 0.538, 200),
        "Acrobot": Measured(-498.62, 1.032, 200),
        "MountainCar": Measured(-200.0, 0.0, 200),
    },
    "Classic/Pendulum4": {
        "Earth": Measured(-1231.114, 20.569, 200),
        "Mars": Measured(-1090.153, 22.418, 200),
        "Heavy": Measured(-1243.618, 21.891, 200),
        "Short": Measured(-1358.386, 10.667, 200),
    },
}
