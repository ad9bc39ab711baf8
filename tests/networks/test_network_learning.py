"""Which optimiser learns which tower, and what a policy was built with."""

from every_network import every_policy, make, parameters_of

from sb3_moe.networks import networks_of

CRITICS = ("SAC", "TD3", "DDPG", "TQC", "CrossQ")


@every_policy
def test_optimisers_hold_exactly_their_towers_parameters(algorithm, alias):
    networks = networks_of(make(algorithm, alias).policy)
    towers, optimizers = networks.towers(), networks.optimizers()
    assert list(optimizers) == list(towers)
    beside = {id(p) for p in parameters_of(networks.extractors().values())}
    beside |= {id(p) for p in parameters_of(networks.memories().values())}
    for optimizer in set(optimizers.values()):
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        learned = [modules for name, modules in towers.items() if optimizers[name] is optimizer]
        assert held - beside == {id(p) for modules in learned for p in parameters_of(modules)}


@every_policy
def test_a_critics_own_optimiser_is_known_where_it_has_one(algorithm, alias):
    policy = make(algorithm, alias).policy
    own = networks_of(policy).critic_optimizer()
    assert own is (policy.critic.optimizer if algorithm in CRITICS else None)


@every_policy
def test_constructor_arguments_build_the_same_policy_again(algorithm, alias):
    policy = make(algorithm, alias).policy
    again = type(policy)(**networks_of(policy).constructor_arguments())
    ours, theirs = policy.state_dict(), again.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
