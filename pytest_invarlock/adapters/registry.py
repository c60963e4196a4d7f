"""From an adapter's name to the adapter. Naming one imports torch only when it is made."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError
from pytest_invarlock.policy.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_invarlock.adapters.hf_adapter import Adapter

GROUP = "invarlock.adapters"
"""The entry-point group in which other packages register adapters."""

BUILT_IN_ADAPTERS: Mapping[str, tuple[str, str]] = {
    "auto": ("pytest_invarlock.adapters.hf_auto", "HF_Auto_Adapter"),
    "hf_auto": ("pytest_invarlock.adapters.hf_auto", "HF_Auto_Adapter"),
    "hf_causal": ("pytest_invarlock.adapters.hf_causal", "HF_Causal_Adapter"),
    "hf_mlm": ("pytest_invarlock.adapters.hf_mlm", "HF_MLM_Adapter"),
    "hf_seq2seq": ("pytest_invarlock.adapters.hf_seq2seq", "HF_Seq2Seq_Adapter"),
}
"""Module and class of each built-in adapter; no other package can take these names."""

_METHODS = ("load", "load_model", "describe")


def adapter_names() -> list[str]:
    """Every name `adapter_named` knows, the built-in ones first; nothing is imported."""
    return [*BUILT_IN_ADAPTERS, *sorted(_registered())]


def adapter_named(
    name: str, *, allow_network: bool = False, allow_remote_code: bool = False
) -> Adapter:
    """A new adapter: a built-in one, else one that an installed package registers.

    ``allow_remote_code`` is for the built-in ones.

    Another package's entry point leads to a class, or a function, that takes ``allow_network`` as
    a keyword and gives an object with `Adapter`'s methods.

    Raises:
        ConfigError: no adapter has this name; two packages register it; the one that has it cannot
            be imported or is no adapter.
    """
    if name in BUILT_IN_ADAPTERS:
        home, attribute = BUILT_IN_ADAPTERS[name]
        built_in: Adapter = getattr(import_module(home), attribute)(
            allow_network=allow_network, allow_remote_code=allow_remote_code
        )
        return built_in
    registered = _registered().get(name, [])
    if not registered:
        raise ConfigError(
            f"no adapter is named {name!r}",
            remedy=nearest(name, adapter_names(), "adapter"),
            code="UNKNOWN_ADAPTER",
        )
    values = sorted({entry.value for entry in registered})
    if len(values) > 1:
        raise _unusable(name, f"is registered twice: {' and '.join(values)}", "uninstall one")
    return _made(name, registered[0], allow_network)


def _registered() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        if entry.name not in BUILT_IN_ADAPTERS:
            found.setdefault(entry.name, []).append(entry)
    return found


def _made(name: str, entry: EntryPoint, allow_network: bool) -> Adapter:
    try:
        adapter: Any = entry.load()(allow_network=allow_network)
    # What another package's code raises when it is imported or called can be any of these.
    except (
        ImportError, AttributeError, NameError, SyntaxError, TypeError, ValueError, LookupError,
        RuntimeError, OSError,
    ) as error:  # fmt: skip
        told = str(error).strip().splitlines()
        why = f"{type(error).__name__}: {told[0]}" if told else type(error).__name__
        raise _unusable(
            name, f"({entry.value}) cannot be made: {why}", "mend its package"
        ) from error
    missing = [method for method in _METHODS if not callable(getattr(adapter, method, None))]
    if missing:
        raise _unusable(name, f"({entry.value}) has no {missing[0]}()", "mend its package")
    made: Adapter = adapter
    return made


def _unusable(name: str, what: str, remedy: str) -> ConfigError:
    return ConfigError(f"adapter {name!r} {what}", remedy=remedy, code="ADAPTER_UNUSABLE")
