"""The table of a model's weights by family and role, as plain JSON values and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from invarlock_guards.families import describe_families

from pytest_invarlock.adapters import HF_Auto_Adapter

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = "invarlock-families-v1"
_HEADER = ("family", "role", "tensors", "parameters", "for example")


def families_document(reference: str, *, allow_network: bool = False) -> dict[str, Any]:
    """Load ``reference`` on the CPU and describe its weight matrices, tied ones once.

    Raises ModelLoadError or AdapterError where the reference gives no model.
    """
    model = HF_Auto_Adapter(allow_network=allow_network).load_model(reference, device="cpu")
    return {
        "format": FORMAT,
        "model": reference,
        "class": type(model).__name__,
        "rows": [
            {
                "family": row.family,
                "role": row.role,
                "tensors": row.count,
                "parameters": row.parameters,
                "example": row.example,
            }
            for row in describe_families(model)
        ],
    }


def families_lines(document: Mapping[str, Any]) -> list[str]:
    """The lines of the table: a heading, one line for each role, and the sum."""
    rows = document["rows"]
    cells = [
        _HEADER,
        *(
            (r["family"], r["role"], f"{r['tensors']}", f"{r['parameters']:,}", r["example"])
            for r in rows
        ),
        (
            "all",
            "",
            f"{sum(r['tensors'] for r in rows)}",
            f"{sum(r['parameters'] for r in rows):,}",
            "",
        ),
    ]
    family, role, tensors, parameters, _ = (
        max(map(len, column)) for column in zip(*cells, strict=True)
    )
    return [
        f"{document['model']} ({document['class']}): matrices by family",
        *(
            f"{one[0]:<{family}}  {one[1]:<{role}}  {one[2]:>{tensors}}  {one[3]:>{parameters}}"
            f"  {one[4]}".rstrip()
            for one in cells
        ),
    ]
