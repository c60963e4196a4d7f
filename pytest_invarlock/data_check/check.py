"""The check that the owner of the data adds to a verification: are these windows of my data?

It runs once every other stage has passed. What cannot be shown is an error, for it was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_invarlock.errors import ConfigError, EvidenceError
from pytest_invarlock.evidence.findings import Finding, Stage
from pytest_invarlock.evidence.pack_schemas import RECORD_NAME, read_checked
from pytest_invarlock.policy.settings import collect_settings
from pytest_invarlock.policy.suite import Suite, load_suite, shipped_suites
from pytest_invarlock.records import record_from_bytes

if TYPE_CHECKING:
    from pytest_invarlock.evidence.verified import VerifiedPack
    from pytest_invarlock.records import Record

SALT_BYTES = 32


def data_check(
    suite_file: Path, salt_files: Sequence[Path]
) -> Callable[[VerifiedPack], list[Finding]]:
    """The check of a pack against the data of a suite.

    Args:
        suite_file: the suite or run configuration that was run, or a shipped suite's name; settings
            of the environment hold, such as ``INVARLOCK_MODEL`` in place of the suite's models.
        salt_files: the ``state/salt`` of each run that the pack's records are of.

    Raises:
        ConfigError: the suite cannot be used, or a file is no salt (NO_SALT_FILE).
        OSError: a file cannot be read.
    """
    settings = collect_settings(lambda _: None, lambda _: None, os.environ)
    settings.check()
    if str(suite_file) not in shipped_suites():
        # Of a file that is missing the exit status is another than of one that says wrong things.
        suite_file.open("rb").close()
    suite = load_suite(str(suite_file), settings, Path.cwd())
    salts = [_salt(path) for path in salt_files]
    return lambda pack: check_data(pack, suite, salts)


def check_data(pack: VerifiedPack, suite: Suite, salts: Sequence[bytes]) -> list[Finding]:
    """What of a pack's windows is not as drawn again from the data of ``suite``.

    Codes: DATA_MISMATCH, SALT_MISMATCH, DATA_UNCHECKED; notes DATA_WITHOUT_HASHES,
    DATA_OTHER_SETTINGS, DATA_CHECKED.
    """
    try:
        # Only now: they take seconds to import, and a pack that fails before needs none of them.
        from pytest_invarlock.data_check.comparison import Comparison
    except ImportError as error:
        text = f"tokenizers need torch and transformers, and {error.name} cannot be imported"
        return [Finding("DATA_UNCHECKED", Stage.SEMANTICS, "", text)]
    comparison = Comparison(suite, salts)
    for path in filter(RECORD_NAME.fullmatch, pack.names()):
        comparison.add(path, _read(pack, path))
    return comparison.findings()


def _read(pack: VerifiedPack, path: str) -> Record:
    document = read_checked(pack, path, "record")
    if isinstance(document, Finding):
        # Every record was read before: only a file that changed since comes here.
        raise EvidenceError(document.message, remedy="", code=document.code)
    return record_from_bytes(document, pack.read(path.replace(".record.json", ".npz")))


def _salt(path: Path) -> bytes:
    try:
        salt = bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError:
        salt = b""
    if len(salt) != SALT_BYTES:
        raise ConfigError(
            f"{path}: is no salt of a run",
            remedy="give the file state/salt in the folder of the run",
            code="NO_SALT_FILE",
        )
    return salt
