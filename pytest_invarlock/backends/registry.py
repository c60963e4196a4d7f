"""From a backend's name to the backend; naming one imports nothing that it rests on."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import BackendUnavailable, ConfigError
from pytest_invarlock.policy.deploy_names import SCHEMES, backend_names
from pytest_invarlock.policy.nearest import nearest
from pytest_invarlock.registered import BACKENDS, registered

if TYPE_CHECKING:
    from pytest_invarlock.backends.contract import Backend

_BUILT_IN = {"torchao": ("pytest_invarlock.backends.torchao_weight_only", "TorchaoBackend")}


def backend_named(name: str) -> Backend:
    """A new backend: a built-in one, else the one that an installed package registers.

    Raises:
        ConfigError: none has this name, two packages register it, or it cannot be imported.
    """
    if name in SCHEMES:
        home, attribute = _BUILT_IN[name]
        built_in: Backend = getattr(import_module(home), attribute)()
        return built_in
    found = registered(BACKENDS).get(name, ())
    if len(found) != 1:
        what = "is registered twice" if found else "is registered by no installed package"
        remedy = "uninstall one" if found else nearest(name, backend_names(), "backend")
        raise ConfigError(f"backend {name!r} {what}", remedy=remedy, code="UNKNOWN_BACKEND")
    made: Any = found[0].load()
    backend: Backend = made()
    return backend


def usable_backend(name: str, scheme: str, device: str) -> Backend:
    """Backend ``name``, proved to have ``scheme`` and to run it on ``device``.

    Raises:
        BackendUnavailable: what it rests on is not installed, or does not run there.
        ConfigError: as `backend_named`; or it has no such scheme.
    """
    backend = backend_named(name)
    if scheme not in backend.schemes:
        raise ConfigError(
            f"backend {name} has no scheme {scheme!r}",
            remedy=nearest(scheme, list(backend.schemes), "scheme"),
            code="UNKNOWN_SCHEME",
        )
    reason = backend.unavailable(scheme, device)
    if reason is not None:
        raise BackendUnavailable(f"{name} {scheme}: {reason}", remedy="")
    return backend
