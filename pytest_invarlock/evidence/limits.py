"""How much of a stranger's evidence is read: each bound holds before the read that it bounds.

Sizes are bytes. Together they bound the memory of a verification, whatever a pack states: what is
kept of its files, one document with the values parsed from it, and the arrays of one record.
"""

from __future__ import annotations

MIB = 2**20
MAX_STATEMENT_BYTES = 20 * MIB
# Base64 of the longest statement, and room for the rest.
MAX_ENVELOPE_BYTES = 32 * MIB
MAX_MANIFEST_BYTES = 20 * MIB
MAX_DOCUMENT_BYTES = 64 * MIB
MAX_FILE_BYTES = 256 * MIB
MAX_PACK_BYTES = 16 * 1024 * MIB
MAX_KEPT_BYTES = 128 * MIB
"""What a verification keeps of the files that it has read; beyond it a file is read anew."""

MAX_JSON_DEPTH = 64
MAX_JSON_VALUES = 2_000_000
"""Commas and opening brackets: a document of two-byte values takes 30 times its own size."""
MAX_NUMBER_LENGTH = 400

MAX_WINDOWS = 1_000_000
"""Windows of one arm of a record; all ten arrays of both arms then fit a file."""

MAX_RESAMPLED = 10**10
"""Documents drawn in all bootstrap replicates of a pack; the policy of each record asks for some.

The largest shipped suite in profile release stays below half of it.
"""


def max_bytes_of(path: str) -> int:
    """The most bytes that the file at ``path`` of a pack may have."""
    return MAX_DOCUMENT_BYTES if path.endswith(".json") else MAX_FILE_BYTES
