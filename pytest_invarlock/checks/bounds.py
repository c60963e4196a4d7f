"""One place that compares an interval with a limit, in one direction or both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_invarlock.decision import Outcome

if TYPE_CHECKING:
    from pytest_invarlock.policy.metric_limits import Direction


def judge_interval(
    lower: float, upper: float, *, worst: float, best: float, direction: Direction
) -> tuple[Outcome, str]:
    """Outcome and reason of one-sided bounds against a limit, limit included in PASS.

    Non-inferiority looks at ``worst`` only. Equivalence demands the mirrored test besides: a
    PASS then shows both (two one-sided tests), each at its own full level.

    Args:
        lower: one-sided lower bound.
        upper: one-sided upper bound, in the same unit.
        worst: largest value that is accepted.
        best: least value that equivalence accepts.
        direction: of the policy.

    Source: Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15 (1987), 657-680.
    """
    both = direction == "equivalence"
    if lower > worst:
        return Outcome.FAIL, "beyond_limit"
    if both and upper < best:
        return Outcome.FAIL, "too_much_better"
    if upper <= worst and (not both or lower >= best):
        return Outcome.PASS, "within_limit"
    return Outcome.INCONCLUSIVE, "bound_straddles_limit"
