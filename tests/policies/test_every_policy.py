"""Every algorithm, alias, placement, router, kind of token and feature keeps the contract."""

import arena
import cases
import contract
import pytest
import torch as th
from hidden import drifts

from sb3_moe import presets

EVERY = cases.every_case()
COVER = cases.each_placement(EVERY)


class Watch:
    """Note which experts were given tokens that count, and what their weights were before."""

    def __init__(self, policy):
        self.layers = policy.moe_layers()
        self.before = {name: self.experts(layer) for name, layer in self.layers.items()}
        self.used = {name: th.zeros(layer.num_experts) for name, layer in self.layers.items()}
        self.hooks = [
            layer.register_forward_hook(self.hook(name), with_kwargs=True)
            for name, layer in self.layers.items()
        ]

    @staticmethod
    def experts(layer):
        return [layer.experts.expert(k).state_dict() for k in range(layer.num_experts)]

    def hook(self, name):
        def note(module, args, kwargs, output):
            # A critic that judges the actor's actions teaches the actor, not itself.
            if module.training and th.is_grad_enabled() and kwargs["aux"]:
                self.used[name] += output[1].load_E.detach()

        return note

    def assert_used_experts_changed(self):
        for hook in self.hooks:
            hook.remove()
        for name, layer in self.layers.items():
            assert self.used[name].sum() > 0, name
            pairs = zip(self.before[name], self.experts(layer), strict=True)
            for k, (old, new) in enumerate(pairs):
                changed = any(not th.equal(old[key], new[key]) for key in old)
                assert changed == bool(self.used[name][k] > 0), (name, k)


def check(case, tmp_path):
    model = cases.make(case)
    watch = Watch(model.policy)
    contract.learn(model)
    if contract.took_a_step(model):
        watch.assert_used_experts_changed()
    loaded = contract.check(model, tmp_path)
    given = contract.options_of(loaded.policy)
    for name, value in cases.options_of(case).items():
        assert given[name] == value


@pytest.mark.parametrize("case", COVER, ids=str)
def test_a_policy_trains_predicts_and_goes_on_from_files_with_its_options(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("case", EVERY, ids=str)
def test_every_policy_trains_predicts_and_goes_on_from_files_with_its_options(case, tmp_path):
    check(case, tmp_path)


# What brings tensors, losses or distributions of its own: algorithm, arguments, options.
BELIEF = {"placement": "big", "router": "belief"}
FEATURES = {
    "own actions": ("PPO", {}, {"action_dims": [1, 2, 1]}),
    "own actions of SAC": ("SAC", {}, {"action_dims": [1, 2, 1]}),
    "temperatures": ("SAC", {"ent_coef": 1.0}, {"ent_coef_per_task": True, "placement": "none"}),
    "temperatures of TQC": ("TQC", {"ent_coef": 1.0}, {"ent_coef_per_task": True}),
    "gradients by task": ("MaskablePPO", {}, {"task_gradients": "pcgrad"}),
    "gradients by task of TQC": ("TQC", {}, {"task_gradients": {"qf": "pcgrad"}}),
    "gradients by task behind an LSTM": ("RecurrentPPO", {}, {"task_gradients": "pcgrad"}),
    "penalty": ("PPO", {}, {"spectral_coef": 0.1, "router": "top_k"}),
    "penalty of TD3": ("TD3", {}, {"spectral_coef": 0.1}),
    "penalty of QRDQN": ("QRDQN", {}, {"spectral_coef": 0.1}),
    "penalty behind an LSTM": ("RecurrentPPO", {}, {"spectral_coef": 0.1, "lstm_hidden_size": 6}),
    "scale": ("DQN", {}, {"match_scale": True}),
    "idle": ("TD3", {}, {"router": "top_k", "freeze_idle": True}),
    "heads": ("DQN", {}, {"head_router": "task"}),
    "belief": ("PPO", {}, BELIEF),
    "belief of SAC": ("SAC", {}, BELIEF),
    "belief of QRDQN": ("QRDQN", {}, BELIEF),
    "SCALE_MOE_LIKE": ("DQN", {}, presets.SCALE_MOE_LIKE),
    **{name: ("PPO", {}, getattr(presets, name)) for name in ("MULTI_HEAD", "SIMBA", "SPHERE")},
    **{name: ("SAC", {}, getattr(presets, name)) for name in ("MOORE", "PACO")},
}


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_trains_predicts_and_goes_on_from_files(feature, tmp_path):
    algorithm, arguments, options = FEATURES[feature]
    obs, load = None, {}
    if options.get("router") == "belief":
        env = drifts(continuous=algorithm in arena.BOX_ACTIONS)
        obs, load = env.reset(), {"env": env}
    else:
        actions = arena.BOX if "action_dims" in options else arena.actions_of(algorithm)
        env = arena.Arena(arena.with_task(arena.FLAT), actions)
    alias = "MoeMultiInputLstmPolicy" if algorithm == "RecurrentPPO" else "MoeMultiInputPolicy"
    options = {"net_arch": [8, 8], **options}
    model = arena.make(algorithm, alias, env, model=arguments, **options)
    loaded = contract.check(model, tmp_path, obs, **load)
    given = contract.options_of(loaded.policy)
    assert {name: given[name] for name in options} == options
