"""A router, a kind of expert, a placement and a callback, as a user would write them."""

from torch import nn

from sb3_moe.callbacks.periodic import PeriodicCallback
from sb3_moe.layers import MoELayer, StackedNetwork
from sb3_moe.policies.placements import Placement


def mlp_experts(num_experts, in_features, width, out_features, activation_fn=nn.ReLU):
    """Return experts of two linear layers, with torch's own initialization."""
    return StackedNetwork(
        [
            nn.Sequential(
                nn.Linear(in_features, width), activation_fn(), nn.Linear(width, out_features)
            )
            for _ in range(num_experts)
        ]
    )


class Tempered(MoELayer):
    """Weigh all experts by the softmax of scores at a temperature."""

    name = "tempered"
    losses = frozenset({"balance"})

    def __init__(self, experts, sees, *, temperature=1.0):
        super().__init__(experts)
        self.scores = nn.Linear(sees.features, sees.num_experts)
        self.temperature = temperature

    def route(self, x, router_x):
        logits = self.scores(router_x) / self.temperature
        return self.combine(x, logits.softmax(-1), logits=logits)


class Skipping(nn.Module):
    """A hidden layer with a way around it: no row of layers, so it can't be stacked."""

    def __init__(self, in_features, width, out_features, activation, *, scale=1.0):
        super().__init__()
        self.inside = nn.Linear(in_features, width)
        self.activation = activation
        self.outside = nn.Linear(width, out_features)
        self.around = nn.Linear(in_features, out_features)
        self.scale = scale

    def forward(self, x):
        return self.around(x) + self.scale * self.outside(self.activation(self.inside(x)))


ENDS = Placement(
    name="ends", meaning="experts in place of the last two layers", hidden=-1, head="own"
)


class Marks(PeriodicCallback):
    """A callback of the user's own: it notes every step at which it acted."""

    def __init__(self, every):
        super().__init__(every)
        self.steps = []

    def act(self, step):
        self.steps.append(step)
        self.logger.record("marks/count", len(self.steps))
        return True
