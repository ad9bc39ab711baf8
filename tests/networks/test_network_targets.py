"""Which target network follows which online one."""

import torch as th
from every_network import every_policy, make
from stable_baselines3.common.utils import polyak_update

from sb3_moe.networks import networks_of


@every_policy
def test_a_targets_weights_become_those_of_what_it_follows(algorithm, alias):
    policy = make(algorithm, alias).policy
    targets = networks_of(policy).targets()
    names = {name.split(".")[0] for name, _ in policy.named_parameters()}
    assert len(targets) == sum(name.endswith("_target") for name in names)
    for online, target in targets.items():
        pairs = list(zip(online.parameters(), target.parameters(), strict=True))
        assert all(mine.shape == theirs.shape for mine, theirs in pairs)
        for mine in online.parameters():
            mine.data.add_(1.0)
        polyak_update(online.parameters(), target.parameters(), tau=1.0)
        for (name, mine), theirs in zip(
            online.state_dict().items(), target.state_dict().values(), strict=True
        ):
            assert th.equal(mine, theirs), name


@every_policy
def test_what_follows_a_module_stands_at_the_same_place_of_the_target(algorithm, alias):
    policy = make(algorithm, alias).policy
    networks, modules = networks_of(policy), dict(policy.named_modules())
    for path, module in policy.named_modules():
        first, dot, rest = path.partition(".")
        if not first.endswith("_target"):
            assert networks.follower(module) is modules.get(f"{first}_target{dot}{rest}"), path
