"""Networks of every router, kind of token and placement, in bfloat16 and for empty batches."""

import itertools
import math
from dataclasses import replace

import pytest
import torch as th
from stable_baselines3.common.torch_layers import create_mlp

from sb3_moe.layers import experts
from sb3_moe.layers.registry import ROUTERS
from sb3_moe.policies.architect import Architect
from sb3_moe.policies.moe_network import Layout
from sb3_moe.policies.options import MoEOptions
from sb3_moe.policies.placements import PLACEMENTS, TOKENS

FLAT = Layout(x_dim=5, num_tasks=3)
MAP = Layout(x_dim=2 * 3 * 4, map_shape=(2, 3, 4), num_tasks=3)
IMAGE = Layout(x_dim=4 * 5 * 5, image_shape=(4, 5, 5), encoder="minatar", num_tasks=3)
CASES = [
    (router, tokens, placement, layout)
    for router, tokens, placement in itertools.product(ROUTERS, TOKENS, list(PLACEMENTS)[1:])
    for layout in (("flat", "image") if tokens == "sample" else ("map",))
    if (tokens == "sample" or placement in ("middle", "all"))
    and (router != "expert_choice" or (tokens != "sample" and placement == "middle"))
]


def build(router, tokens, placement, layout, **others):
    th.manual_seed(0)
    layout = {"flat": FLAT, "map": MAP, "image": IMAGE}[layout]
    layout = replace(layout, tells_task=router != "belief")
    dense = create_mlp(layout.features_dim, 2, [8] if tokens != "sample" else [8, 6])
    options = MoEOptions(router=router, tokens=tokens, placement=placement, **others)
    network = Architect(options, layout).network(dense).eval()
    for parameter in network.parameters():
        parameter.data.normal_(std=0.5)
    return network


def inputs(network, batch):
    ids = th.nn.functional.one_hot(th.arange(batch) % 3, 3).float()
    return th.cat([th.randn(batch, network.layout.x_dim), ids], 1)


@pytest.mark.covering
@pytest.mark.parametrize(("router", "tokens", "placement", "layout"), CASES)
@pytest.mark.parametrize("sorts_rows", [False, True])
def test_bfloat16_gives_about_the_same_and_an_empty_batch_goes_through(
    monkeypatch, sorts_rows, router, tokens, placement, layout
):
    network = build(router, tokens, placement, layout)
    assert network(inputs(network, 0)).shape == (0, 2)
    if sorts_rows:
        monkeypatch.setattr(experts, "WIDE_UP_TO", {"cpu": -math.inf})
    x = inputs(network, 6)
    exact = network(x)
    with th.autocast("cpu", th.bfloat16):
        rough = network(x)
    rough.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    # A router that picks experts may pick another one for a sample, by a hair.
    close = (rough.float() - exact).abs() < 0.1 * exact.abs().max()
    assert close.float().mean() > 0.7
