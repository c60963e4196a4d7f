"""Edits that come as objects of the Python API: checked, and applied to a copy of the model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pytest_invarlock.adapters.loaded_model import LoadedModel, context_length
from pytest_invarlock.bench.tensor_digest import model_tensors, tensor_digests
from pytest_invarlock.core.model_state import ModelStructure
from pytest_invarlock.errors import AdapterError, EditError
from pytest_invarlock.plan import EditSpec

if TYPE_CHECKING:
    from pytest_invarlock.bench.journal import EditJournal
    from pytest_invarlock.core.api import EditLike

_ADAPTER_METHODS = ("load_model", "describe")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EditedCopy:
    """A copy of a model that an edit object has changed, and what the edit said of it."""

    model: torch.nn.Module
    summary: Mapping[str, Any]


class EditedCopyAdapter:
    """Gives the bench the edited copy as its subject, and never a baseline: that is the caller's.

    Without a copy there is nothing to load at all.
    """

    name: ClassVar[str] = "edited_copy"

    def __init__(self, edited: EditedCopy | None) -> None:
        self._edited = edited

    def load(self, reference: str, *, device: str, dtype: str) -> LoadedModel:
        """The copy, which is where and what the model is."""
        del device, dtype
        model = self.load_model(reference)
        return LoadedModel(model, None, None, context_length(model), None)

    def load_model(self, reference: str, device: str = "auto") -> Any:
        """Just the copy; raises EditError (MODEL_LEFT_CHANGED) where there is none."""
        del device
        if self._edited is None:
            raise EditError(
                f"{reference}: an edit could not be undone, and the caller's model is no file",
                remedy="load the model again",
                code="MODEL_LEFT_CHANGED",
            )
        return self._edited.model

    def describe(self, model: torch.nn.Module) -> Mapping[str, Any]:
        """Its class."""
        return {"class": type(model).__name__}


def check_adapter(adapter: Any) -> None:
    """Raise AdapterError naming what ``adapter`` lacks of `ModelAdapter`; None is accepted."""
    missing = None if adapter is None else _missing(adapter, _ADAPTER_METHODS)
    if missing is not None:
        raise AdapterError(
            f"{type(adapter).__name__} is no ModelAdapter: it has no {missing}",
            remedy="add it, or pass None",
            code="ADAPTER_UNUSABLE",
        )


def described(adapter: Any, model: Any) -> dict[str, Any]:
    """What ``adapter`` says of ``model``; nothing without an adapter.

    Raises:
        AdapterError: it gave no mapping (ADAPTER_UNUSABLE).
    """
    if adapter is None:
        return {}
    description = adapter.describe(model)
    if not isinstance(description, Mapping):
        raise AdapterError(
            f"describe() of {adapter.name} gave {type(description).__name__}, not a mapping",
            remedy="return what the model is, by name",
            code="ADAPTER_UNUSABLE",
        )
    return dict(description)


def check_edit_object(edit: Any) -> None:
    """Raise EditError where ``edit`` is neither `EditSpec` nor `EditLike`."""
    missing = None if isinstance(edit, EditSpec) else _missing(edit, ("apply",))
    if missing is not None:
        raise EditError(
            f"{type(edit).__name__} is no edit: it has no {missing}",
            remedy="pass an EditSpec, or an object with a name and apply(model, adapter)",
            code="EDIT_UNUSABLE",
        )


def check_fit(edit: Any, description: Mapping[str, Any], model: Any) -> None:
    """Raise EditError where ``edit`` has ``can_edit`` and says no to a ``description``."""
    can_edit = getattr(edit, "can_edit", None)
    if callable(can_edit) and not can_edit(description):
        raise EditError(
            f"{edit.name} says that it cannot edit this {type(model).__name__}",
            remedy="choose another edit, or an adapter that describes the model more fully",
            code="EDIT_UNFIT",
        )


def spec_of(edit: EditSpec | EditLike) -> EditSpec | None:
    """The named edit that ``edit`` is, or None: then it is code that only it knows."""
    if isinstance(edit, EditSpec):
        return edit
    spec = getattr(edit, "spec", None)
    return spec if isinstance(spec, EditSpec) else None


def edited_copy(edit: EditLike, model: torch.nn.Module, adapter: Any) -> EditedCopy:
    """``edit`` applied to a copy of ``model``, which stays as it is (see `confined`).

    Raises:
        EditError: nothing changed, more did than numbers, which could not be carried over, or
            ``apply`` gave back something that is no mapping.
    """
    changed = copy.deepcopy(model)
    summary = edit.apply(changed, adapter)
    if summary is not None and not isinstance(summary, Mapping):
        raise EditError(
            f"apply() of {edit.name} gave {type(summary).__name__}, not a mapping or None",
            remedy="change the model in place, and return figures by name",
            code="EDIT_UNUSABLE",
        )
    if ModelStructure.of(changed) != ModelStructure.of(model):
        raise EditError(
            f"{edit.name} changed names, shapes, dtypes, ties, attributes, configuration or code "
            "of the model, not only numbers",
            remedy="save the changed model, and compare it as a subject",
            code="EDIT_STRUCTURAL",
        )
    if tensor_digests(changed) == tensor_digests(model):
        raise EditError(
            f"{edit.name} changed nothing",
            remedy="strengthen it, or mend its apply()",
            code="EDIT_CHANGED_NOTHING",
        )
    return EditedCopy(changed, dict(summary or {}))


def carry_over(edited: EditedCopy, journal: EditJournal) -> None:
    """Write the copy's numbers, where they differ, into the model of ``journal``."""
    digests = tensor_digests(edited.model)
    for name, tensor in model_tensors(edited.model).items():
        if digests[name] != journal.digests[name]:
            journal.write(name, tensor.detach())


def _missing(thing: Any, methods: tuple[str, ...]) -> str | None:
    """The first that ``thing`` lacks of a name and ``methods``, as code shows it."""
    for method in methods:
        if not callable(getattr(thing, method, None)):
            return f"{method}()"
    return None if isinstance(getattr(thing, "name", None), str) else "name"
