"""The typed errors: each carries a stable code, the cause and the remedy in one line."""

from __future__ import annotations


class InvarlockError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        cause: what is wrong, naming the file, key or value.
        remedy: what the user can do about it; an imperative phrase.
        code: stable upper-case identifier; defaults to the class's own.

    Records and packs hold only ``code``: a cause may name paths, which must not leave the machine.
    """

    default_code = "INVARLOCK_ERROR"

    def __init__(self, cause: str, *, remedy: str, code: str | None = None) -> None:
        self.cause = cause
        self.remedy = remedy
        self.code = code or self.default_code
        super().__init__(f"{cause} ({remedy})" if remedy else cause)


class ConfigError(InvarlockError):
    """A setting, suite file, policy or option that cannot be used: pytest's usage error."""

    default_code = "CONFIG"


class ModelLoadError(InvarlockError):
    """A model or tokenizer that is missing, incomplete, gated or inconsistent."""

    default_code = "MODEL_LOAD"


class AdapterError(InvarlockError):
    """A model that no adapter can measure."""

    default_code = "ADAPTER"


class DataError(InvarlockError):
    """Evaluation data that is missing, empty, malformed or too small to make windows of."""

    default_code = "DATA"


class EditError(InvarlockError):
    """An edit or fault that has no target, changed nothing, or could not be undone."""

    default_code = "EDIT"


class BackendUnavailable(InvarlockError):  # noqa: N818  a reason to skip, not a defect
    """A backend that is not installed, or does not run a scheme on the device."""

    default_code = "BACKEND_UNAVAILABLE"


class GuardError(InvarlockError):
    """A guard that could not be prepared or measured."""

    default_code = "GUARD"


class MeasurementError(InvarlockError):
    """A measurement that ended without numbers, such as running out of memory."""

    default_code = "MEASUREMENT"


class EvidenceError(InvarlockError):
    """Evidence that cannot be written or read: records, certificates, packs."""

    default_code = "EVIDENCE"


class SigningKeyError(EvidenceError):
    """A signing or verification key that is missing, of another type, or readable by others."""

    default_code = "SIGNING_KEY"


def error_code(error: BaseException) -> str:
    """The stable code under which an error enters a record."""
    return error.code if isinstance(error, InvarlockError) else "CRASH"
