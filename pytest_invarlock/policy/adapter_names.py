"""Which adapters there are, by name: nothing of them is imported."""

from __future__ import annotations

from importlib.metadata import entry_points

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.nearest import nearest

GROUP = "invarlock.adapters"
BUILT_IN = ("auto", "hf_auto", "hf_causal", "hf_mlm", "hf_seq2seq")


def check_adapter(name: str, origin: str = "") -> None:
    """Raise ConfigError where no adapter has this name; ``origin`` heads the error."""
    if name in BUILT_IN:
        return
    known = [*BUILT_IN, *sorted({entry.name for entry in entry_points(group=GROUP)} - {*BUILT_IN})]
    if name not in known:
        raise ConfigError(
            f"{origin}no adapter is named {name!r}",
            remedy=nearest(name, known, "adapter"),
            code="UNKNOWN_ADAPTER",
        )
