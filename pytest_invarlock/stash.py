"""Stash keys: where the plugin keeps its state on pytest's config."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_invarlock.activation import Activation
    from pytest_invarlock.session import RunController
    from pytest_invarlock.workbench import Workbench

ACTIVATION: pytest.StashKey[Activation] = pytest.StashKey()
WORKBENCH: pytest.StashKey[Workbench] = pytest.StashKey()
CONTROLLER: pytest.StashKey[RunController] = pytest.StashKey()
