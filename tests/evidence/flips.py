"""One bit of one byte of a pack, flipped and set back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .synthetic import Pack

Place = tuple[str, int]


def places(pack: Pack) -> list[Place]:
    """Every byte of every file of the pack, envelope and lists included, by path and index."""
    found = sorted(path for path in pack.path.rglob("*") if path.is_file())
    return [
        (path.relative_to(pack.path).as_posix(), index)
        for path in found
        for index in range(path.stat().st_size)
    ]


@contextmanager
def flipped(pack: Pack, place: Place, bit: int) -> Iterator[None]:
    path, index = pack.path / place[0], place[1]
    with path.open("r+b", buffering=0) as file:
        file.seek(index)
        byte = file.read(1)[0]
        file.seek(index)
        file.write(bytes([byte ^ (1 << bit)]))
        try:
            yield
        finally:
            file.seek(index)
            file.write(bytes([byte]))
