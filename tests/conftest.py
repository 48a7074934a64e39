"""Strict settings for every test: no silent rank promotion. Programs compile without costly optimisations."""

import os

# Nearly all of the suite's time is compilation; child processes inherit the setting.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest


@pytest.fixture(autouse=True, scope="session")
def _strict_jax():
    jax.config.update("jax_numpy_rank_promotion", "raise")
