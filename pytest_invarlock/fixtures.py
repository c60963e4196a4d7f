"""Fixtures for tests marked ``invarlock``: the measured comparison, models, windows and policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_invarlock.errors import InvarlockError
from pytest_invarlock.path_names import without_absolute_paths

if TYPE_CHECKING:
    from pytest_invarlock.adapters import Adapter
    from pytest_invarlock.comparison import LentEdit, MeasuredComparison
    from pytest_invarlock.data import WindowSet
    from pytest_invarlock.lending import Lending
    from pytest_invarlock.policy.decision_policy import DecisionPolicy


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Our typed errors as one line; a traceback would show our insides, and data with them."""
    __tracebackhide__ = True
    try:
        yield
    except InvarlockError as error:
        text = without_absolute_paths(f"ERROR: {error} [{error.code}]")
        pytest.fail(text, pytrace=False)


@pytest.fixture
def _invarlock_lending(request: pytest.FixtureRequest) -> Iterator[Lending]:
    """The bench behind the test; proves after it that lent models came back unchanged."""
    from pytest_invarlock.lending import lending_for

    with _one_line_errors():
        lending = lending_for(request)
    yield lending
    with _one_line_errors():
        lending.prove_unchanged()


@pytest.fixture
def invarlock_adapter(_invarlock_lending: Lending) -> Adapter:
    """The adapter that loads the test's models."""
    return _invarlock_lending.bench.adapter


@pytest.fixture
def invarlock_policy(_invarlock_lending: Lending) -> DecisionPolicy:
    """The decision policy of the test; override it to demand something else."""
    return _invarlock_lending.comparison.policy


@pytest.fixture
def invarlock_windows(_invarlock_lending: Lending) -> WindowSet:
    """Preview and final windows of the test; override it to measure on your own."""
    with _one_line_errors():
        return _invarlock_lending.windows()


@pytest.fixture
def invarlock_baseline(_invarlock_lending: Lending) -> Any:
    """The loaded baseline model, lent: it must be given back unchanged."""
    with _one_line_errors():
        return _invarlock_lending.baseline()


@pytest.fixture
def invarlock_subject(_invarlock_lending: Lending) -> Any:
    """The loaded subject model; where the subject is an edit of the baseline, an edited copy."""
    with _one_line_errors():
        return _invarlock_lending.subject()


@pytest.fixture
def invarlock_edit(_invarlock_lending: Lending) -> Callable[..., LentEdit]:
    """``invarlock_edit(name, **parameters)``: a context in which the baseline carries an edit."""
    return _invarlock_lending.edit


@pytest.fixture
def invarlock(
    _invarlock_lending: Lending,
    invarlock_policy: DecisionPolicy,
    invarlock_windows: WindowSet,
) -> MeasuredComparison:
    """The measured and decided comparison of the test."""
    with _one_line_errors():
        return _invarlock_lending.measure(invarlock_policy, invarlock_windows)
