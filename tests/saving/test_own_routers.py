"""Models with routers of the user's own, which a file names and whoever opens it gives."""

import arena
import pytest
import torch as th

import sb3_moe
from sb3_moe.layers import MoELayer
from sb3_moe.policies.placements import Placement
from sb3_moe.saving import UnsafeFileError


class Halves(MoELayer):
    """Give every expert the same weight, as a user might write it."""

    def __init__(self, experts, sees, *, share=1.0):
        super().__init__(experts)
        self.share = share

    def route(self, x, router_x):
        gates = x.new_full((*x.shape[:-1], self.num_experts), self.share / 2)
        return self.combine(x, gates)


@pytest.mark.parametrize(
    ("algorithm", "router", "by_network"),
    [("PPO", Halves, True), ("DQN", f"{__name__}:Halves", False)],
)
def test_a_router_of_ones_own_is_given_to_load(algorithm, router, by_network, tmp_path):
    network = "pi" if algorithm == "PPO" else "qf"
    options = {"router": {network: router} if by_network else router, "num_experts": 2}
    options["router_kwargs"] = {network: {"share": 0.5}} if by_network else {"share": 0.5}
    model = arena.train(arena.make(algorithm, net_arch=[4], **options))
    sb3_moe.save(model, tmp_path / "x.moe")
    with pytest.raises(UnsafeFileError, match=r"pass custom_objects=\{'Halves': \.\.\.\}"):
        sb3_moe.load(tmp_path / "x.moe", device="cpu")
    loaded = sb3_moe.load(tmp_path / "x.moe", device="cpu", custom_objects={"Halves": Halves})
    assert loaded.policy.moe[network].router_class is Halves
    for old, new in zip(model.policy.parameters(), loaded.policy.parameters(), strict=True):
        th.testing.assert_close(old, new, rtol=0, atol=0)


LAST = Placement(name="last", meaning="experts in the last hidden layer", hidden=-1)


@pytest.mark.parametrize("placement", [LAST, {"pi": LAST, "vf": "none"}], ids=["all", "by_network"])
def test_a_placement_of_ones_own_is_data_and_lies_in_the_file(placement, tmp_path):
    model = arena.make("PPO", net_arch=[4], num_experts=2, placement=placement)
    sb3_moe.save(model, tmp_path / "x.moe")
    loaded = sb3_moe.load(tmp_path / "x.moe", device="cpu")
    assert loaded.policy.moe_options["placement"] == placement
    obs = arena.observe(model)
    assert (arena.predict(loaded, obs) == arena.predict(model, obs)).all()
