"""Made-up presets: whole and usable by default, each part replaceable."""

from __future__ import annotations

from typing import Any

from pytest_invarlock.calibration.benign_run import BenignRun
from pytest_invarlock.calibration.derive import FAMILIES, TierLimits, derive
from pytest_invarlock.calibration.preset_document import HeldOut, preset_document
from pytest_invarlock.decision import CheckDecision, Decision, Outcome

GROUPS = ("strict", "compression", "open")
TIER = TierLimits(
    drift_band=1.05,
    spectral=lambda statistic, group, family: 0.08 if statistic == "relative_change" else 0.01,
    error=dict.fromkeys(GROUPS, 0.083),
    angle=dict.fromkeys(GROUPS, 0.003),
    epsilon=dict.fromkeys((*FAMILIES, "embed"), 0.1),
    log_rms=dict.fromkeys(GROUPS, 0.015),
    min_effect=9e-4,
)
DIGEST = "sha256:" + "0" * 64


def runs(scale: float = 1.0) -> list[BenignRun]:
    """Two draws of one benign edit."""
    return [
        BenignRun(
            draw=draw,
            subject="rtn",
            group="strict",
            drift=0.001 * scale,
            spectral={"ffn": {"ln_sigma": 0.002 * scale}},
            growth={"ffn": 0.02 * scale},
            error=0.02 * scale,
            angle=0.001 * scale,
            log_rms=0.004 * scale,
            gain=0.002 * scale,
        )
        for draw in (0, 1)
    ]


def decision(outcome: Outcome = Outcome.PASS, *, check: str = "spectral") -> Decision:
    """The decision on a held-out benign run, of one check."""
    fired = (check,) if outcome is Outcome.FAIL else ()
    return Decision(
        model="m", scenario="rtn", draw=2, category="clean", strictness="must_pass",
        checks=(CheckDecision(check, outcome, "why", "in words"),), fired=fired, outcome=outcome,
        expectation_met=outcome.acceptable, text="in words", metric=None, convention=None,
    )  # fmt: skip


def preset(model: str = "builtin:llama", *outcomes: Outcome, scale: float = 1.0) -> dict[str, Any]:
    """A preset's document; ``outcomes`` are those of its held-out runs, one that passes if none."""
    found = runs(scale)
    held_out = HeldOut.of([2], [decision(outcome) for outcome in outcomes or (Outcome.PASS,)])
    meta = {
        "model": model, "tier": "balanced", "profile": "dev", "runs": 2, "inputs": DIGEST,
        "benign": [{"scenario": "rtn", "kind": "quantize8", "edit": {"name": "quant_rtn"}}],
        "data": {
            "provider": "pydoc", "pool": "calibration", "seq_len": 64, "digests": [DIGEST],
            "windows": {"preview": 24, "final": 24}, "documents": {"preview": 20, "final": 20},
        },
    }  # fmt: skip
    return preset_document(meta, found, derive(found, TIER), held_out)
