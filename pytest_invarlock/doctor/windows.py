"""Whether a model's windows can be drawn, and reach the floors; drawn as a run draws them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_invarlock.data.sampling import ARM_SHARES
from pytest_invarlock.doctor.dataset import place_of
from pytest_invarlock.doctor.findings import Finding, of_error
from pytest_invarlock.errors import ConfigError, DataError
from pytest_invarlock.policy.decision_policy import Strictness

if TYPE_CHECKING:
    from pytest_invarlock.data import Provider, WindowSet
    from pytest_invarlock.doctor.checkpoint import Layout
    from pytest_invarlock.policy.suite import Suite
    from pytest_invarlock.policy.yaml_document import YamlDocument

# After these no model is bitwise the same, or proven to be: it is judged by its losses alone.
_ALWAYS_JUDGED = ("quant_rtn", "fp8_quant", "magnitude_prune", "lowrank_svd")


def check_windows(
    suite: Suite, provider: Provider, layout: Layout, model: str, document: YamlDocument | None
) -> list[Finding]:
    """What is wrong with the windows of the model ``model``, by the suite's first draw."""
    try:
        windows = _drawn(suite, provider, layout)
    except DataError as error:
        found = of_error(error)
        place = place_of(document, "preview_n", "final_n", "provider")
        return [replace(found, message=f"{model}: {found.message}", **place)]
    except ConfigError as error:
        found = of_error(error)
        return [replace(found, message=f"{model}: {found.message}", **place_of(document))]
    return _few_documents(suite, windows, model, document)


def _drawn(suite: Suite, provider: Provider, layout: Layout) -> WindowSet:
    from pytest_invarlock.bench.draws import metric_of
    from pytest_invarlock.data import draw_windows

    plan = suite.plan
    return draw_windows(
        provider,
        layout.tokenizer,
        plan.windows,
        draw=suite.runs_of(suite.pairs[0], suite.scenarios[0])[0],
        context=layout.context,
        reading=layout.reading,
        metric=metric_of(plan, layout.reading),
        mask_probability=plan.mask_probability,
    )


def _few_documents(
    suite: Suite, windows: WindowSet, model: str, document: YamlDocument | None
) -> list[Finding]:
    floor, reached = suite.policy.floors.documents, windows.n_documents["final"]
    if reached >= floor:
        return []
    if suite.plan.windows.final_windows < floor:
        keys, remedy = ("final_n", "preview_n"), f"ask for at least {floor} windows of each arm"
    else:
        keys = ("provider", "final_n")
        remedy = f"give at least {-(-floor // ARM_SHARES['final']):.0f} documents that are long "
        remedy += "enough for a window"
    return [
        Finding(
            "FEW_DOCUMENTS", "error" if _fails_below_floor(suite) else "warning",
            f"{model}: the final arm holds windows of {reached} documents, below the floor of "
            f"{floor}: no changed model can pass",
            remedy=remedy, **place_of(document, *keys),
        )
    ]  # fmt: skip


def _fails_below_floor(suite: Suite) -> bool:
    """Whether a scenario must pass that cannot without the floors."""
    return suite.policy.on_inconclusive == "fail" and any(
        scenario.edit is not None
        and scenario.edit.name in _ALWAYS_JUDGED
        and suite.expectation(pair, scenario).strictness is Strictness.MUST_PASS
        for pair, scenario in suite.planned()
    )
