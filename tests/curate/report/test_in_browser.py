"""The report as a reader sees it, in a headless Chromium (Debian: `apt install chromium`)."""

import pytest
from PIL import Image

from flashvsr.curate.report.page import write_report
from tests.curate.headless_chromium import chromium, find_chromium
from tests.curate.made_run import add_thumbnail, random_run, record, rejected, write_run

_PROGRAM = find_chromium()
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(_PROGRAM is None, reason="no Chromium: the report was not opened in a browser"),
]

# of every element with text of its own: its ratio of luminances to the background, as WCAG 2 defines it
_CONTRASTS = """
(() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const luminance = color => color.slice(0, 3).map(part => part / 255)
    .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const color = parse(getComputedStyle(element).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll('body *')].filter(element =>
    element.checkVisibility() && element.localName !== 'title' &&
    [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()));
  return texts.map(element => {
    const style = getComputedStyle(element);
    const color = parse(element.namespaceURI.endsWith('svg') ? style.fill : style.color);
    const [low, high] = [luminance(color), luminance(behind(element))].sort((a, b) => a - b);
    return [(high + 0.05) / (low + 0.05), element.outerHTML.slice(0, 120)];
  });
})()
"""
_UNNAMED = """
[...document.querySelectorAll('img:not([alt]), svg:not(:has(> title)), table:not(:has(> caption)), a:empty')]
  .map(element => element.outerHTML.slice(0, 120))
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with chromium(_PROGRAM, tmp_path_factory.mktemp("chromium") / "profile") as tab:
        yield tab


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a run with every kind of fate, and of names that try to break out."""
    out = tmp_path_factory.mktemp("run")
    evil = "<script>console.error('escaped')</script><img src=https://example.com/x.png onerror=alert(1)>"
    picture = add_thumbnail(out, "evil.jpg", (180, 60, 60))
    extra = [record(evil, thumbnail=picture), rejected(evil, "probe", f"damaged: {evil}", thumbnail=picture)]
    return write_report(write_run(out, random_run(out, 400) + extra))


def visit(tab, page):
    """Open a page; what it asked for beside itself, and its complaints."""
    tab.requests.clear()
    tab.complaints.clear()
    tab.open(page.as_uri())
    return [request for request in tab.requests if request != page.as_uri()], tab.complaints


def test_the_report_asks_for_nothing_and_complains_of_nothing(tab, page):
    tab.look()
    requests, complaints = visit(tab, page)
    assert complaints == []
    assert [request[:60] for request in requests if not request.startswith("data:image/jpeg;base64,")] == []
    pictures = "[...document.images].map(image => image.complete && image.naturalWidth)"
    widths = tab.evaluate(pictures)
    assert len(widths) > 100
    assert set(widths) == {90, 160}


def test_this_browser_would_have_noticed(tab, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><img src='https://example.com/x.png'><p style='color:#999;width:5000px'>pale</p>"
        "<script>console.error('oh'); nothing()</script>"
    )
    tab.look(width=360)
    requests, complaints = visit(tab, bad)
    assert requests == ["https://example.com/x.png"]
    assert len(complaints) == 3
    for words in ('"oh"', "nothing is not defined", "ERR_NAME_NOT_RESOLVED"):
        assert sum(words in complaint for complaint in complaints) == 1
    assert tab.evaluate("document.documentElement.scrollWidth") > 360
    assert [text for contrast, text in tab.evaluate(_CONTRASTS) if contrast < 4.5] == [
        '<p style="color:#999;width:5000px">pale</p>'
    ]
    assert tab.evaluate(_UNNAMED) == ['<img src="https://example.com/x.png">']


@pytest.mark.parametrize("width", [360, 768, 1280, 2560])
def test_nothing_sticks_out_of_the_window(tab, page, width):
    tab.look(width=width)
    visit(tab, page)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_can_be_read(tab, page, dark):
    tab.look(dark=dark)
    visit(tab, page)
    contrasts = tab.evaluate(_CONTRASTS)
    assert len(contrasts) > 200
    assert [text for contrast, text in contrasts if contrast < 4.5] == []


def test_everything_has_a_name_for_screen_readers(tab, page):
    visit(tab, page)
    assert tab.evaluate(_UNNAMED) == []
    headings = tab.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(heading => heading.localName)")
    assert headings[0] == "h1"
    assert headings.count("h1") == 1


def test_the_page_follows_the_colours_that_the_reader_prefers(tab, page, tmp_path):
    corners = []
    for dark in (False, True):
        tab.look(dark=dark)
        visit(tab, page)
        tab.screenshot(tmp_path / "page.png", whole=False)
        with Image.open(tmp_path / "page.png") as image:
            assert image.size == (1280, 900)
            assert len(image.convert("RGB").getcolors(1 << 24)) > 100
            corners.append(image.convert("L").getpixel((2, 2)))
    assert corners[0] > 200
    assert corners[1] < 60
