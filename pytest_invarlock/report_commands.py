"""``invarlock report render | explain``: pages and sentences of certificates that are there.

Nothing is verified here: a page restates what its certificate says. No torch is needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_invarlock.errors import ConfigError, EvidenceError

if TYPE_CHECKING:
    from pytest_invarlock.cli import CommandTable
    from pytest_invarlock.records import Facts

GROUP = "report"
REPORT = "evaluation.report.json"
DEFAULT_FOLDER = "invarlock-report"
MAX_REPORT_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Source:
    """A certificate's file, where its page belongs, and the folder that records stand under."""

    path: Path
    place: Path
    root: Path | None


def register(commands: CommandTable) -> None:
    """Add the commands of this module; imports nothing else of the package."""
    render = commands.add_to(GROUP, "render", "write certificates as pages for people")
    render.add_argument(
        "source", type=Path, metavar="PACK|RUN|REPORT",
        help=f"an evidence pack, a run's folder, or one {REPORT}",
    )  # fmt: skip
    form = render.add_mutually_exclusive_group()
    form.add_argument("--html", action="store_true", help="one HTML page each (default)")
    form.add_argument("--markdown", action="store_true", help="Markdown instead")
    render.add_argument(
        "-o", "--out", type=Path, metavar="DIR",
        help=f"write here (default: beside a run's certificates, else {DEFAULT_FOLDER}/)",
    )  # fmt: skip
    render.set_defaults(run=run_render)
    explain = commands.add_to(GROUP, "explain", "say in sentences why a scenario came out so")
    explain.add_argument("source", type=Path, metavar="PACK|RUN|REPORT", help="as for render")
    explain.add_argument("--scenario", metavar="ID", help="only this scenario")
    explain.set_defaults(run=run_explain)


def run_render(arguments: argparse.Namespace) -> int:
    """Write a page for each certificate; prints where."""
    from pytest_invarlock.certificate import render_certificate_html, render_certificate_markdown
    from pytest_invarlock.evidence.atomic import write_bytes

    for source in _sources(arguments.source):
        certificate = _read(source.path)
        folder = _folder(arguments, source)
        _refuse_pack(folder)
        if arguments.markdown:
            page, name = render_certificate_markdown(certificate), "report.md"
        else:
            page = render_certificate_html(certificate, _facts(source, certificate))
            name = "report.html"
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / name, page.encode())
        print(folder / name)
    print("not verified: invarlock verify checks a pack")
    return 0


def run_explain(arguments: argparse.Namespace) -> int:
    """Print a paragraph for the verdict and for each check."""
    from pytest_invarlock.certificate.explain import explain_certificate

    certificates = [_read(source.path) for source in _sources(arguments.source)]
    if arguments.scenario is not None:
        names = sorted({certificate["scenario"] for certificate in certificates})
        certificates = [c for c in certificates if c["scenario"] == arguments.scenario]
        if not certificates:
            raise ConfigError(
                f"{arguments.source}: no scenario {arguments.scenario}",
                remedy=f"one of {', '.join(names)}",
                code="UNKNOWN_SCENARIO",
            )
    for certificate in certificates:
        print("\n\n".join(map(_plain, explain_certificate(certificate))), end="\n\n")
    print("not verified: invarlock verify checks a pack")
    return 0


def _sources(given: Path) -> list[Source]:
    """The certificates that ``given`` holds or is.

    Raises FileNotFoundError where nothing is there, EvidenceError where it holds none.
    """
    if given.is_file():
        root = given.resolve().parents[4] if len(given.resolve().parents) > 4 else None
        return [Source(given, Path(), root)]
    if not given.is_dir():
        raise FileNotFoundError(2, "no such file or folder", str(given))
    found = sorted(path for path in given.glob(f"reports/*/*/run_*/{REPORT}") if path.is_file())
    if not found:
        raise EvidenceError(
            f"{given}: holds no reports/…/{REPORT}",
            remedy="give an evidence pack, a run's folder, or one report",
            code="NO_REPORTS",
        )
    return [Source(path, path.parent.relative_to(given / "reports"), given) for path in found]


def _folder(arguments: argparse.Namespace, source: Source) -> Path:
    if arguments.out is not None:
        out: Path = arguments.out
        return out / source.place
    if arguments.source.is_file() or _is_pack(arguments.source):
        return DEFAULT_FOLDER / source.place
    return source.path.parent


def _refuse_pack(folder: Path) -> None:
    whole = folder.resolve()
    if any(_is_pack(place) for place in (whole, *whole.parents)):
        raise ConfigError(
            f"{folder}: lies in an evidence pack, where a file more breaks the seal",
            remedy="give another folder with -o",
            code="OUTPUT_IN_PACK",
        )


def _is_pack(folder: Path) -> bool:
    return (folder / "manifest.json").is_file() and (folder / "checksums.sha256").is_file()


def _read(path: Path) -> dict[str, Any]:
    from pytest_invarlock.certificate import validate_certificate
    from pytest_invarlock.evidence.strict_json import loads

    with path.open("rb") as file:
        data = file.read(MAX_REPORT_BYTES + 1)
    value = loads(data, max_bytes=MAX_REPORT_BYTES, what=str(path))
    if not isinstance(value, dict):
        raise EvidenceError(f"{path}: is no certificate", remedy="", code="CERTIFICATE_SCHEMA")
    validate_certificate(value)
    return value


def _facts(source: Source, certificate: Mapping[str, Any]) -> Facts | None:
    """The facts of the certificate's own record; None where no record is beside it.

    Raises EvidenceError where the record that is there is another one's.
    """
    from pytest_invarlock.run_directory import RunDirectory, read_record

    if source.root is None:
        return None
    path = RunDirectory(source.root).record_path(
        certificate["model"], certificate["scenario"], certificate["draw"]
    )
    if not path.is_file():
        return None
    facts = read_record(path).facts
    if facts.digest != certificate["facts_digest"]:
        raise EvidenceError(
            f"{source.path}: the record beside it is another one's",
            remedy="run invarlock verify",
            code="SEMANTIC_MISMATCH",
        )
    return facts


def _plain(text: str) -> str:
    # Names may come from a stranger's pack: no control sequence reaches a terminal.
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
