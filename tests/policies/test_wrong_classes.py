"""Routers and experts of the user's own that can't work say why before anything is learned."""

import arena
import pytest
import torch as th

from sb3_moe.layers import MoELayer, Routing, SparseMoE


class Routed(MoELayer):
    """Even gates, and whatever a test changes."""

    def __init__(self, experts, sees):
        super().__init__(experts)

    def route(self, x, router_x):
        return self.combine(x, self.gates(x))

    def gates(self, x):
        return th.full((*x.shape[:-1], self.num_experts), 1 / self.num_experts)


@pytest.mark.parametrize("shape", [(2, 3), (2, 4, 4), (1, 4), (2, 1)])
def test_gates_of_another_shape_are_refused_by_the_router_s_name(shape):
    class Off(Routed):
        def route(self, x, router_x):
            return x, Routing(th.ones(shape))

    with pytest.raises(ValueError, match=r"`router`='Off' .* gates \(2, 1, 4\), got"):
        arena.make("PPO", router=Off)


def test_a_route_that_gives_the_gates_alone_is_told_of_combine():
    class Gates(Routed):
        def route(self, x, router_x):
            return self.gates(x)

    with pytest.raises(
        TypeError, match=r"`route` of the router 'Gates' must return .*combine.*, got Tensor"
    ):
        arena.make("PPO", router=Gates)


def test_a_router_without_route_is_refused():
    class Idle(MoELayer):
        def __init__(self, experts, sees):
            super().__init__(experts)

    with pytest.raises(NotImplementedError, match="Idle must have a method `route`"):
        arena.make("PPO", router=Idle)


class Needy(Routed):
    """Has an option without a default."""

    def __init__(self, experts, sees, *, sharpness):
        super().__init__(experts, sees)
        self.sharpness = sharpness


def test_a_router_s_option_without_a_default_must_be_given():
    with pytest.raises(TypeError, match="required keyword-only argument: 'sharpness'"):
        arena.make("PPO", router=Needy)
    model = arena.make("PPO", router=Needy, router_kwargs={"sharpness": 2.0})
    assert model.policy.moe_layers()["pi.middle"].sharpness == 2.0


class Few(SparseMoE):
    """Takes fewer options than its base."""

    def __init__(self, experts, sees, *, top_k=2):
        super().__init__(experts, sees, top_k=top_k)


def test_a_router_may_take_fewer_options_than_its_base_and_is_checked_by_it():
    assert arena.make("PPO", router=Few).policy.moe_layers()["pi.middle"].top_k == 2
    with pytest.raises(ValueError, match=r"`top_k` must be in \[1, num_experts=4\], got 5"):
        arena.make("PPO", router=Few, top_k=5)
