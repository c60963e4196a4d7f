"""The certificate: what one record came to, as strict JSON and as text people read."""

from __future__ import annotations

from pytest_invarlock.certificate.build import make_certificate, validate_certificate
from pytest_invarlock.certificate.html_page import render_certificate_html
from pytest_invarlock.certificate.render import render_certificate_markdown

make_report = make_certificate
validate_report = validate_certificate
render_report_markdown = render_certificate_markdown

__all__ = [
    "make_certificate",
    "make_report",
    "render_certificate_html",
    "render_certificate_markdown",
    "render_report_markdown",
    "validate_certificate",
    "validate_report",
]
