"""Gradients by task, measured with the loss of the algorithm that trains."""

import pytest
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from toy import pinned

from sb3_moe.callbacks import TaskGradientCallback


@pytest.mark.parametrize("algo", [TRPO, MaskablePPO, RecurrentPPO])
def test_an_algorithm_with_another_loss_is_refused_by_name(algo):
    policy = "MultiInputLstmPolicy" if algo is RecurrentPPO else "MultiInputPolicy"
    model = algo(policy, pinned(), n_steps=8, batch_size=24, device="cpu")
    message = f"must have PPO's or A2C's loss and no memory, got {algo.__name__}"
    with pytest.raises(ValueError, match=message):
        TaskGradientCallback(24).init_callback(model)
