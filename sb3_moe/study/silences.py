"""What the paper does not say, and what a study takes instead."""

from __future__ import annotations

from sb3_moe.study.grid import StudyConfig

_CHOICES = (
    "Games and length: games that the dense network learned at the study's length in trial runs; "
    "Asterix needs longer ones.",
    "Interleaving: every game has a fixed share of the parallel environments, so all games get "
    "the same number of steps.",
    "Spaces: observations are padded with empty channels to the largest game, and all games use "
    "MinAtar's full set of six actions.",
    "Task id: the network sees which game is on, as a one-hot input, the dense one too.",
    "Experts: four for the learned routers, one per game for the hardcoded one; each is as wide "
    "as the dense network, two layers of 64. The control “dense-matched” has as many parameters "
    "as the mixture of four.",
    "Router: softmax of a linear map of the observation and the task id, without normalisation. "
    "With one token per sample SoftMoE is a softmax-weighted sum of all experts.",
    "Adam's state is kept when the game changes, so that its momentum still moves, for some steps, "
    "an expert that the task router no longer uses.",
    "PPO: the values of PureJaxRL's MinAtar example, with half its value coefficient, since its "
    "value loss has a further 1/2.",
    "From scratch: the first game of a sequence, which no other game came before, is the "
    "reference of the same network and seed.",
    "Dormant neurons: tau 0.025 and 0.1 are both common; the figure's caption has ours. Neurons "
    "of all experts are pooled, so an expert that nothing reaches counts.",
    "Evaluation: the policy samples its actions, as in training, in environments of its own.",
)

_ANNEALING = {
    "none": "It is constant: annealing it over a sequence of games would give later games a lower "
    "one.",
    "run": "It falls to zero over the run, so that later games of a sequence have a lower one.",
    "block": "It falls to zero over each game's training, and starts again with the next game.",
}


def silences(study: StudyConfig) -> list[str]:
    """List the choices that a study made."""
    own = any("learning_rate" in architecture.ppo for architecture in study.architectures)
    whose = (
        "networks have their own, given with them at the top of this page."
        if own
        else "the same for all networks, though each may have a best one of its own."
    )
    return [f"Learning rate: {whose} {_ANNEALING[study.annealing]}", *_CHOICES]
