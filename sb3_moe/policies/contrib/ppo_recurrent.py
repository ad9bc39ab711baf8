"""MoE policies for RecurrentPPO: the experts stand behind the LSTM.

Shapes: B batch (sequences laid end to end), K tasks, L width of the LSTM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch as th
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from torch import Tensor, nn

from sb3_moe.policies.architect import Architect
from sb3_moe.policies.moe_network import Layout
from sb3_moe.policies.on_policy import MoEActorCritic
from sb3_moe.policies.options import DEFAULTS

if TYPE_CHECKING:

    class _Policy(MoEActorCritic, RecurrentActorCriticPolicy):
        """For type checkers: the mixin with the SB3-contrib class that it is combined with."""

else:
    _Policy = MoEActorCritic


class ReattachTask(nn.Module):
    """Run a layer on the features it was made for, and put the one-hot task id behind the output.

    :param layer: takes ``in_features`` features
    :param num_tasks: K, the length of the one-hot at the end of the input
    """

    def __init__(self, layer: nn.Linear, num_tasks: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_tasks = num_tasks

    def forward(self, features: Tensor) -> Tensor:
        """Return ``[layer(features) | one-hot]``."""
        out = self.layer(features[:, : self.layer.in_features])
        return th.cat([out, features[:, -self.num_tasks :]], 1)


class MoERecurrent(_Policy):
    """Give the networks behind the LSTM experts.

    The task id enters the LSTM for ``task_input`` ``"both"`` and ``"experts"``, the same for actor
    and critic. Auxiliary losses count the padded steps of RecurrentPPO's sequences too.
    """

    # The image is encoded before the LSTM, so whole-network experts hold no encoder.
    encodes_in_experts = False

    def __init__(self, *args: Any, n_lstm_layers: int = 1, **kwargs: Any) -> None:
        self.n_lstm_layers = n_lstm_layers
        self.reattached = 0
        super().__init__(*args, n_lstm_layers=n_lstm_layers, **kwargs)
        if self.critic is not None and self.reattached:
            # No new parameters: the optimizer that SB3 has built still holds them all.
            self.critic = ReattachTask(self.critic, self.reattached)  # type: ignore[assignment]

    def _make_architects(self) -> dict[str, Architect]:
        features = self.layout(self.features_extractor)
        self._check(features)
        layout = Layout(
            x_dim=self.lstm_output_dim,
            num_tasks=features.num_tasks,
            tells_task=features.tells_task,
        )
        if all(self.uses_sb3_network(network, features) for network in self.network_names):
            return {}
        # The one-hot is appended again behind the LSTM for both networks, so both must expect it.
        self.reattached = features.num_tasks
        if not self.moe["pi"].experts_see_task:
            self.features_dim = features.x_dim
        return {
            network: self._make_architect(network, layout, after_lstm=True)
            for network in self.network_names
        }

    def _check(self, features: Layout) -> None:
        for network, options in self.moe.items():
            refused = {"tokens": options.is_tokenized, "task_embedding": options.embeds_task}
            for name in [name for name, is_asked in refused.items() if is_asked]:
                raise ValueError(
                    f"`{name}` must be {DEFAULTS[name]!r} behind an LSTM, got "
                    f"{getattr(options, name)!r} for {network!r}"
                )
        seen = {network: options.experts_see_task for network, options in self.moe.items()}
        if features.num_tasks and len(set(seen.values())) > 1:
            inputs = {network: options.task_input for network, options in self.moe.items()}
            raise ValueError(
                "`task_input` must let the task id into the LSTM for both networks or for neither, "
                f"got {inputs}"
            )

    def _process_sequence(  # type: ignore[override]  # static in sb3-contrib, called on self
        self,
        features: Tensor,
        lstm_states: tuple[Tensor, Tensor],
        episode_starts: Tensor,
        lstm: nn.LSTM,
    ) -> tuple[Tensor, Any]:
        """Run the LSTM and put the one-hot task id behind its output, for the routers."""
        out, states = super()._process_sequence(
            features[:, : lstm.input_size], lstm_states, episode_starts, lstm
        )
        if self.reattached:
            out = th.cat([out, features[:, -self.reattached :]], 1)
        return out, states

    def _get_constructor_parameters(self) -> dict[str, Any]:
        """Return what ``load`` needs, with the LSTM's sizes, which sb3-contrib forgets."""
        return super()._get_constructor_parameters() | {
            "lstm_hidden_size": self.lstm_output_dim,
            "n_lstm_layers": self.n_lstm_layers,
            "shared_lstm": self.shared_lstm,
            "enable_critic_lstm": self.enable_critic_lstm,
            "lstm_kwargs": self.lstm_kwargs,
        }


class MoeMlpLstmPolicy(MoERecurrent, RecurrentActorCriticPolicy):
    """MoE policy for flat observations (RecurrentPPO)."""


class MoeCnnLstmPolicy(MoERecurrent, RecurrentActorCriticCnnPolicy):
    """MoE policy for images (RecurrentPPO)."""


class MoeMultiInputLstmPolicy(MoERecurrent, RecurrentMultiInputActorCriticPolicy):
    """MoE policy for Dict observations (RecurrentPPO)."""


__all__ = ["MoeCnnLstmPolicy", "MoeMlpLstmPolicy", "MoeMultiInputLstmPolicy"]
