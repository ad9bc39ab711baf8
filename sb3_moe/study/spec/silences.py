"""What the paper does not say, and what a study takes instead."""

from __future__ import annotations

from collections.abc import Sequence

from sb3_moe.study.spec.grid import StudyConfig

_CHOICES = (
    "Games and length: games that the dense network learned at the study's length in trial runs; "
    "Asterix needs longer ones.",
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
)

_EVALUATION = {
    False: "the policy samples its actions, as in training",
    True: "the policy takes its most likely actions",
}

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
    rate = f"Learning rate: {whose} {_ANNEALING[study.annealing]}"
    games, *others = _CHOICES
    actions = _EVALUATION[study.evaluation.deterministic]
    evaluation = f"Evaluation: {actions}, in environments of its own."
    return [rate, games, _interleaving(study.games, study.n_envs), *others, evaluation]


def _interleaving(games: Sequence[str], n_envs: int) -> str:
    """Say which share of the steps each game gets."""
    from sb3_moe_envs.schedules.interleave import Interleave, slot_counts

    fixed = "Interleaving: every game has a fixed share of the parallel environments, "
    if n_envs < len(games):
        return fixed + "which takes as many of them as there are games."
    counts = slot_counts(Interleave().shares(len(games)), n_envs)
    if len(set(counts)) == 1:
        return fixed + "so all games get the same number of steps."
    shares = (f"{count} of {n_envs} {game}" for game, count in zip(games, counts, strict=True))
    return f"{fixed}here {', '.join(shares)}, and of the steps too."
