"""What may be asked of a device, each with its reason; anything else is a defect."""

from __future__ import annotations

from fake_device import Place, Watch

ACTIONS = "the environment takes actions from the host"
ROLLOUTS = "SB3's own rollouts are numpy arrays"
LOGGED = "SB3 logs its losses"
CHECKED = "torch checks the arguments of SB3's distributions, which dense policies have"
OBSERVATIONS = "observations come from the host"
MINIBATCHES = "SB3's own buffers are numpy arrays"
STORED = "what the environment gave is copied once"
DRAWN = "numpy draws the indices, as in SB3's buffers"

TRAINING = {
    Place(
        "sb3_moe/policies/plain_distributions.py",
        "get_actions",
        "if not is_recorded() and math.isnan(self.given_BA.sum().item()):",
    ): "one look for NaN when actions are chosen",
    Place("stable_baselines3/common/on_policy_algorithm.py", "collect_rollouts"): ACTIONS,
    Place("sb3_contrib/ppo_mask/ppo_mask.py", "collect_rollouts"): ACTIONS,
    Place("sb3_contrib/ppo_recurrent/ppo_recurrent.py", "collect_rollouts"): ACTIONS,
    Place("stable_baselines3/common/policies.py", "predict"): ACTIONS,
    Place("sb3_contrib/common/maskable/policies.py", "predict"): ACTIONS,
    Place("sb3_contrib/common/recurrent/policies.py", "predict"): ACTIONS,
    Place("stable_baselines3/common/buffers.py", "add"): ROLLOUTS,
    Place("stable_baselines3/common/buffers.py", "compute_returns_and_advantage"): ROLLOUTS,
    Place("sb3_contrib/common/recurrent/buffers.py", "add"): ROLLOUTS,
    Place("stable_baselines3/ppo/ppo.py", "train"): LOGGED,
    Place("stable_baselines3/a2c/a2c.py", "train"): LOGGED,
    Place("stable_baselines3/dqn/dqn.py", "train"): LOGGED,
    Place("stable_baselines3/sac/sac.py", "train"): LOGGED,
    Place("stable_baselines3/td3/td3.py", "train"): LOGGED,
    Place("sb3_contrib/qrdqn/qrdqn.py", "train"): LOGGED,
    Place("sb3_contrib/tqc/tqc.py", "train"): LOGGED,
    Place("sb3_contrib/crossq/crossq.py", "train"): LOGGED,
    Place("sb3_contrib/ppo_mask/ppo_mask.py", "train"): LOGGED,
    Place("sb3_contrib/ppo_recurrent/ppo_recurrent.py", "train"): f"{LOGGED}, and masks padding",
    Place("sb3_contrib/trpo/trpo.py", "train"): f"{LOGGED}, and searches along a line",
    Place("sb3_contrib/common/utils.py", "conjugate_gradient_solver"): "it ends by a residual",
    Place("sb3_contrib/common/torch_layers.py", "forward"): "BatchRenorm counts to its warm-up",
    Place("sb3_contrib/common/recurrent/policies.py", "_process_sequence"): "an episode began?",
    Place(
        "sb3_moe/policies/optimizers.py",
        "__init__",
        "self._counts: list[float] = tensors[0].tolist()",
    ): "experts' counts of steps, before the first step",
    Place(
        "sb3_moe/policies/optimizers.py",
        "_active",
        "values = th.cat(norms).tolist() if norms else []",
    ): "which experts were active, where idle ones are held",
    Place(
        "sb3_moe/vec_env/rollout_buffers.py",
        "add",
        "both = th.stack([value.flatten(), log_prob.flatten()]).cpu().numpy()",
    ): "SB3 computes advantages in numpy: one copy a step",
}
DENSE = {
    Place("stable_baselines3/common/distributions.py", "proba_distribution"): CHECKED,
    Place("stable_baselines3/common/distributions.py", "log_prob"): CHECKED,
    Place("sb3_contrib/common/maskable/distributions.py", "__init__"): CHECKED,
    Place("sb3_contrib/common/maskable/distributions.py", "apply_masking"): CHECKED,
    Place("sb3_contrib/common/maskable/distributions.py", "log_prob"): CHECKED,
}
# What is copied to the device.
UPLOADS = {
    Place("stable_baselines3/common/utils.py", "obs_as_tensor"): OBSERVATIONS,
    Place("stable_baselines3/common/utils.py", "<dictcomp>"): OBSERVATIONS,
    Place("stable_baselines3/common/buffers.py", "to_torch"): MINIBATCHES,
    Place("sb3_contrib/common/recurrent/buffers.py", "<listcomp>"): MINIBATCHES,
    Place("sb3_contrib/ppo_recurrent/ppo_recurrent.py", "collect_rollouts"): "episodes' starts",
    Place("sb3_contrib/common/recurrent/policies.py", "predict"): "episodes' starts",
    Place("sb3_contrib/common/maskable/distributions.py", "apply_masking"): "masks, one number",
    Place("sb3_contrib/common/maskable/distributions.py", "entropy"): "one number",
    Place(
        "sb3_moe/vec_env/observations.py", "write", "tensor.copy_(source, non_blocking=True)"
    ): STORED,
    Place(
        "sb3_moe/vec_env/rollout_buffers.py",
        "_finish",
        "self._scalars = th.from_numpy(np.stack([row[:, 0] for row in rows])).to(self.device)",
    ): "advantages and returns, which SB3 computes in numpy",
    Place(
        "sb3_moe/vec_env/rollout_buffers.py",
        "get",
        "order = th.from_numpy(np.random.permutation(size)).to(self.device)",
    ): DRAWN,
    Place(
        "sb3_moe/vec_env/replay_buffers.py",
        "_gather",
        "indices = th.from_numpy(flat_indices).to(self.device)",
    ): DRAWN,
}


def undue(watch: Watch, *, dense: bool = False) -> set[Place]:
    """Return where a device was asked for what it may not be asked for.

    :param watch: what was noted
    :param dense: whether the policy is one without experts
    """
    reads = TRAINING | (DENSE if dense else {})
    return (watch.reads.keys() - reads) | (watch.uploads.keys() - UPLOADS)
