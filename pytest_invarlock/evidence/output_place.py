"""Where results about packs may be written: never into a pack, which holds what was sealed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_invarlock.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def check_outside(output: Path, packs: Iterable[Path]) -> None:
    """Raise ConfigError (OUTPUT_IN_PACK) where ``output`` is or lies inside one of ``packs``."""
    for pack in packs:
        if output.resolve().is_relative_to(pack.resolve()):
            raise ConfigError(
                f"{output.name}: lies inside a pack, to which nothing may be added",
                remedy="name a place outside the pack",
                code="OUTPUT_IN_PACK",
            )
