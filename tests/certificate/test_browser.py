"""Pages in a headless Chromium: readable on a phone and without colour, and asking for nothing.

Skipped where there is no browser: Debian's package ``chromium-headless-shell``, any Chromium on
PATH, or one that INVARLOCK_CHROMIUM names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_invarlock.certificate import render_certificate_html

from .browser import NAMES, Browser, found_browser
from .test_build import certificate, record
from .test_html_page import HOSTILE, damaged

EXECUTABLE = found_browser()
pytestmark = pytest.mark.skipif(
    EXECUTABLE is None,
    reason=f"no browser: none of {', '.join(NAMES)} on PATH, and INVARLOCK_CHROMIUM is not set",
)
WIDTHS = (360, 1280)
# Of every coloured word and cell: the text that says the same.
WORDS = "[...document.querySelectorAll('.outcome, .word')].map(node => node.innerText.trim())"
CELLS = "[...document.querySelectorAll('.heat td')].map(node => [node.className, node.innerText])"
SHOWN = "document.body.innerText"
WIDTH = "[document.documentElement.scrollWidth, window.innerWidth]"
# What is wider than the page stands in a box that scrolls by itself.
SPILLED = """
[...document.querySelectorAll('body *')].filter(node =>
    !node.closest('.scroll') && !node.closest('svg') &&
    node.getBoundingClientRect().right > window.innerWidth + 1).map(node => node.outerHTML)
"""
SMALLEST_TEXT = """
Math.min(...[...document.querySelectorAll('svg text')].map(node =>
    parseFloat(getComputedStyle(node).fontSize) * node.getScreenCTM().a))
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert EXECUTABLE is not None
    with Browser(EXECUTABLE) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    long = "model.layers.1." + "down_projection_" * 20 + ".weight"
    hostile = damaged(long)
    hostile["scenario"] = HOSTILE
    hostile["model"] = "an-organisation/" + "a-very-long-name-" * 8
    made = {
        "passes": render_certificate_html(certificate(record()), record().facts),
        "fails": render_certificate_html(hostile, record(0.3).facts),
    }
    for name, page in made.items():
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["passes", "fails"])
def test_a_page_fits_its_window_and_asks_for_nothing(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    browser.open(pages[name], width)
    wide, window = browser.evaluate(WIDTH)
    assert window == width
    assert wide <= window
    assert browser.evaluate(SPILLED) == []
    assert browser.requests == [pages[name].as_uri()]
    assert browser.complaints == []
    assert browser.evaluate(SMALLEST_TEXT) > 9


@pytest.mark.parametrize("width", WIDTHS)
def test_a_hostile_name_is_shown_and_does_nothing(
    browser: Browser, pages: dict[str, Path], width: int
) -> None:
    browser.open(pages["fails"], width)
    assert HOSTILE in browser.evaluate(SHOWN)
    assert browser.evaluate("document.scripts.length + document.images.length") == 0


def test_without_colour_words_and_marks_say_the_same(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["fails"], 360, grey=True)
    words = browser.evaluate(WORDS)
    assert words[0] == "✕ FAIL, NOT as expected"
    assert {"✓ PASS", "✕ FAIL"} <= set(words)
    cells = browser.evaluate(CELLS)
    assert all(text.strip() for _, text in cells)
    marked = {text.startswith("▲") for kind, text in cells if kind == "broken"}
    assert marked == {True}
    assert not any(text.startswith("▲") for kind, text in cells if kind != "broken")
    dashes = "getComputedStyle(document.querySelector('line.limit')).strokeDasharray"
    assert browser.evaluate(dashes) != "none"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_from_the_page(
    browser: Browser, pages: dict[str, Path], dark: bool
) -> None:
    browser.open(pages["fails"], 1280, dark=dark)
    # Relative luminance as the Web Content Accessibility Guidelines define it, 4.5 to be met.
    contrast = """
    (() => {
      const light = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number)
        .map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
      const page = light(getComputedStyle(document.body).backgroundColor);
      return Math.min(...[...document.querySelectorAll('p, td, th, .outcome, .word')].map(node => {
        const text = light(getComputedStyle(node).color);
        return (Math.max(text, page) + .05) / (Math.min(text, page) + .05);
      }));
    })()
    """
    assert browser.evaluate(contrast) >= 4.5
