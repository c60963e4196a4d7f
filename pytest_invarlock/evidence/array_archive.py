"""The members of a record's ``.npz``, of which every byte is accounted for before one is read.

A zip archive can state one member twice, let members overlap, expand a kilobyte to a gigabyte, or
keep bytes that no member holds. Ours are stored plainly, one after the other, and nothing else.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

from pytest_invarlock.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Mapping

# .ZIP application note 6.3.9: sections 4.3.7 (local header), 4.3.12 (directory), 4.3.16 (its end).
_LOCAL = struct.Struct("<4s2x2H4xI8x2H")
_END = struct.Struct("<4s4x2HIIH")
_LOCAL_BYTES, _ENTRY_BYTES, _END_BYTES = 30, 46, 22


def read_members(data: bytes, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """The contents of an archive that holds exactly the named members.

    Args:
        data: the whole archive.
        sizes: the size in bytes that each member must have, by name.

    Raises:
        EvidenceError: RECORD_ARRAYS for members that are missing, repeated, compressed, encrypted,
            overlapping or of another size, for bytes outside them, and for a checksum that fails.
    """
    _check_directory(data, sizes)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = sorted(archive.infolist(), key=lambda member: member.header_offset)
            if sorted(member.filename for member in members) != sorted(sizes):
                raise bad_arrays("holds other arrays than the record states")
            return _contents(data, members, sizes)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise bad_arrays("is not a readable .npz archive") from error


def bad_arrays(what: str) -> EvidenceError:
    """The error of arrays that are not those of their record."""
    return EvidenceError(
        f"record arrays: {what}", remedy="do not trust this record", code="RECORD_ARRAYS"
    )


def _check_directory(data: bytes, sizes: Mapping[str, int]) -> None:
    """Whether the directory at the end is as long as these members need: zipfile reads it whole."""
    if len(data) < _END_BYTES:
        raise bad_arrays("is not a readable .npz archive")
    mark, n_here, n_members, n_bytes, start, n_comment = _END.unpack(data[-_END_BYTES:])
    expected = sum(_ENTRY_BYTES + len(name) for name in sizes)
    if mark != b"PK\x05\x06" or n_comment:
        raise bad_arrays("is not a readable .npz archive")
    if n_here != n_members or n_members != len(sizes):
        raise bad_arrays("holds other arrays than the record states")
    if n_bytes != expected or start + n_bytes + _END_BYTES != len(data):
        raise bad_arrays("holds more than its arrays")


def _contents(
    data: bytes, members: list[zipfile.ZipInfo], sizes: Mapping[str, int]
) -> dict[str, bytes]:
    """The members' bytes, which lie one after the other, from the first byte to the directory."""
    found: dict[str, bytes] = {}
    position = 0
    for member in members:
        name = member.filename
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits:
            # Anything but plain bytes could expand without bound.
            raise bad_arrays(f"{name} is compressed or encrypted")
        if not member.file_size == member.compress_size == sizes[name]:
            raise bad_arrays(f"{name} is of another size than the record states")
        header = data[position : position + _LOCAL_BYTES]
        if member.header_offset != position or len(header) < _LOCAL_BYTES:
            raise bad_arrays(f"{name} does not begin where the array before it ends")
        mark, flags, method, checksum, n_name, n_extra = _LOCAL.unpack(header)
        start = position + _LOCAL_BYTES + n_name
        stated = data[position + _LOCAL_BYTES : start]
        if mark != b"PK\x03\x04" or stated != name.encode() or n_extra or flags or method:
            raise bad_arrays(f"{name} has another header than we write")
        position = start + sizes[name]
        found[name] = data[start:position]
        if not zlib.crc32(found[name]) == member.CRC == checksum:
            raise bad_arrays(f"{name} does not have the checksum that the archive states")
    directory = len(data) - _END_BYTES - sum(_ENTRY_BYTES + len(name) for name in sizes)
    if position != directory:
        raise bad_arrays("holds bytes that belong to no array")
    return found
