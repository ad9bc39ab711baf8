"""rl-baselines3-zoo as it is, with our policies: ``--gym-packages sb3_moe_envs sb3_moe.zoo``.

Importing this registers the policies' names and, where the zoo is installed, teaches its samplers
to keep the options of mixtures that are given and to sample those that aren't.
``python -m sb3_moe.zoo ppo`` prints where the hyperparameters are that its ``--conf-file`` takes.
"""

from importlib.util import find_spec

from sb3_moe.zoo.files import hyperparameters

__all__ = ["hyperparameters"]

if find_spec("rl_zoo3") is not None:
    from sb3_moe.zoo.samplers import teach

    teach()
