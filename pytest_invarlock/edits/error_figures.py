"""Running totals of what an edit did to its weights, for the record's ``details``."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(slots=True)
class SquaredError:
    """Squared Frobenius norms of edited weights and of their change, summed over tensors."""

    of_change: float = 0.0
    of_weights: float = 0.0

    def add(self, before: torch.Tensor, after: torch.Tensor) -> None:
        """Count one tensor; ``after`` as it is stored, in the tensor's own dtype."""
        old = before.detach().float()
        self.of_change += _squared_norm(after.detach().to(before.dtype).float() - old)
        self.of_weights += _squared_norm(old)

    @property
    def relative(self) -> float:
        """‖ΔW‖ / ‖W‖ over all tensors together; 0 where all were zero."""
        return float((self.of_change / self.of_weights) ** 0.5) if self.of_weights else 0.0


def _squared_norm(values: torch.Tensor) -> float:
    return float(torch.sum(values * values, dtype=torch.float64).item())
