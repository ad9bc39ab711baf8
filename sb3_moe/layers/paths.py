"""The sizes at which layers change from one way of computing to another, all in one place.

Every way gives the same numbers but for rounding. Measured on one thread of a CPU, torch 2.13;
``python -m benchmarks --only paths`` measures both sides of each again.

Shapes: T rows, E experts, k chosen experts per row, D inputs, H hidden.
"""

from __future__ import annotations

import torch as th

# Below this many wasted multiply-adds, T * (E - k) * those of one row in one expert, computing
# every expert beats sorting rows.
MASK_LIMIT = 4_000_000
# The same on a GPU, which waste costs less and more calls cost more (an estimate).
MASK_LIMIT_ELSEWHERE = 1_000_000_000
# From so many experts on, sorted rows go through all experts in one call for each layer; a loop
# over fewer costs little.
GROUPED_FROM = 8
# From so many hidden values per thread on, T * E * H, one expert after the other is faster: its
# values stay in the cache, and the C library hands no memory back to the system on each call.
ONE_BY_ONE_FROM = 524_288
# Up to this many weights, E * D * H, one wide GEMM over all experts beats a batched one.
WIDE_GEMM_LIMIT = 2_000_000
# Above so many scores per thread Soft MoE takes a batch of many tokens in chunks: larger tensors
# leave the cache.
CHUNK_SCORES = 262_144
# From so many experts on, softmax over the last axis is faster than by way of the first, and one
# maximum than a sort for the largest.
LONG_AXIS_FROM = 32


def on_cpu(x: th.Tensor) -> bool:
    """Say whether values may be read: anywhere else that waits for the device."""
    return x.device.type == "cpu"
