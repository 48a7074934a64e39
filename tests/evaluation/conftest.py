"""Shared by the tests of evaluation."""

import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """Without the shape checks of the test run, as a user calls: the front door itself must refuse."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
