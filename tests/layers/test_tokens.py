"""Feature maps as tokens, by hand."""

import torch as th

from sb3_moe.layers.tokens import append_to_each, token_shape, tokenize

MAP = (2, 1, 3)  # channels, height, width
FLAT = th.arange(6.0).view(1, 6)


def test_a_conv_token_is_a_position_across_channels():
    assert token_shape("conv", MAP) == (3, 2)
    assert tokenize("conv", FLAT, MAP).tolist() == [[[0, 3], [1, 4], [2, 5]]]


def test_a_feature_token_is_a_channel_across_positions():
    assert token_shape("feature", MAP) == (2, 3)
    assert tokenize("feature", FLAT, MAP).tolist() == [[[0, 1, 2], [3, 4, 5]]]


def test_the_same_features_are_appended_to_every_token():
    tokens = append_to_each(tokenize("feature", FLAT, MAP), th.tensor([[7.0]]))
    assert tokens.tolist() == [[[0, 1, 2, 7], [3, 4, 5, 7]]]
