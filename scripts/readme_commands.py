"""Take from the README what CI runs, so that what users read and what is tried are one text.

A fenced block is taken where a comment stands right above it:

- ``<!-- ci: checkout -->`` above a ``bash`` block: run in the checkout;
- ``<!-- ci: scratch -->`` above a ``bash`` block: run in an empty folder, with the commands of the
  checkout's virtual environment on PATH;
- ``<!-- ci: file NAME -->`` above any block: written as NAME into that folder first.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

README = Path(__file__).resolve().parents[1] / "README.md"
PLACES = ("checkout", "scratch")
_BLOCK = re.compile(
    r"^<!-- ci: (?P<place>checkout|scratch|file (?P<name>[\w.-]+)) -->\n"
    r"```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the README: where it is run, or the name of the file that it is."""

    place: str
    name: str | None
    text: str


def blocks(readme: str) -> list[Block]:
    """Every marked block in order; raises ValueError for a marker that no usable block follows."""
    found = []
    for match in _BLOCK.finditer(readme):
        if match["name"] is None and match["language"] != "bash":
            raise ValueError(f"a block to run is {match['language'] or 'plain'}, not bash")
        place = "scratch" if match["name"] else match["place"]
        found.append(Block(place, match["name"], match["text"]))
    if len(found) != readme.count("<!-- ci:"):
        raise ValueError("a `ci:` comment stands above no fenced block")
    return found


def script(place: str) -> str:
    """The commands of ``place`` as one bash script, each block announced."""
    commands = [
        block.text
        for block in blocks(README.read_text(encoding="utf-8"))
        if block.name is None and block.place == place
    ]
    if not commands:
        raise ValueError(f"{README.name} has no block marked `ci: {place}`")
    return "set -euxo pipefail\n" + "\n".join(commands)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the script of a place, or write the files that the README shows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--script", choices=PLACES, help="print the commands to run there")
    group.add_argument("--files", type=Path, metavar="FOLDER", help="write the shown files here")
    options = parser.parse_args(arguments)
    try:
        if options.script is not None:
            print(script(options.script))
            return 0
        for block in blocks(README.read_text(encoding="utf-8")):
            if block.name is not None:
                (options.files / block.name).write_text(block.text, encoding="utf-8")
    except ValueError as error:
        print(f"readme_commands: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
