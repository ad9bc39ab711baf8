"""One torch thread per worker, games compiled once, and products of arguments cut short."""

import os
from pathlib import Path

import pytest
import torch as th
from browsing import browser_page, chromium  # noqa: F401  fixtures of all tests
from covering import leave_the_rest

# Small networks are faster on one thread, and two workers share two cores.
th.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))

# Compiling a gymnax game takes seconds, and most tests ask for the same few.
cache = Path(__file__).parents[1] / ".pytest_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# To compile a game takes 0.6 of the time without optimizations, and tests play few steps.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what -m doesn't name
def pytest_collection_modifyitems(items):
    leave_the_rest(items)
