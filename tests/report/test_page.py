import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from geovq_jax import figures
from geovq_jax.evaluation.statistics import Interval
from geovq_jax.report.page import (
    Finding,
    Gallery,
    ReportFigure,
    Section,
    Table,
    Tile,
    format_cell,
    format_table,
    write_report,
)
from geovq_jax.workdir import to_json

CHROMIUM = Path("/usr/bin/chromium")


def usage_figure(name="usage"):
    counts = np.array([5, 2, 1])
    return ReportFigure("Usage of <codes> & cells", figures.code_usage(counts), name, {"counts": counts, "nan": np.nan})


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "report" / "index.html"
    sections = [
        Section(
            "What was <run>",
            "First, `k < 3`.\n\nSecond & last.",
            [Table("Figures", ["name", "PSNR [dB]"], [["a<b", Interval(19.52, 19.4, 19.61)], ["none", None]])],
            links=[("metrics", "metrics.json")],
        ),
        Section("Codes", figures=[usage_figure()]),
    ]
    return write_report(
        path, title="A </title><script>bad()</script>", subtitle="seed 0", sections=sections, footer="end"
    )


class Outline(HTMLParser):
    """Open tags with their attributes, and whether every tag was closed in order."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self):
        super().__init__()
        self.tags, self.stack, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in ("style", "script"):
            self.words.append(data)


@pytest.fixture(scope="module")
def outline(page):
    parser = Outline()
    parser.feed(page.read_text())
    assert not parser.stack
    return parser


def test_words_are_escaped_and_kept(outline):
    words = " ".join(outline.words)
    for expected in (
        "A </title><script>bad()</script>",
        "What was <run>",
        "k < 3",
        "Second & last.",
        "a<b",
        "19.52",
        "19.40 to 19.61",
        "–",
        "end",
    ):
        assert expected in words
    tags = [tag for tag, _ in outline.tags]
    assert not {"run", "codes"} & set(tags)
    assert (tags.count("title"), tags.count("script"), tags.count("style")) == (1, 1, 1)
    alternatives = [attrs["alt"] for tag, attrs in outline.tags if tag == "img"]
    assert alternatives == ["Usage of <codes> & cells", ""]
    assert sum(tag == "p" for tag, _ in outline.tags) == 3


def test_everything_is_inside_the_file(page, outline):
    sources = [attrs[name] for _, attrs in outline.tags for name in ("src", "href") if name in attrs]
    outside = [source for source in sources if not source.startswith(("data:", "#"))]
    assert outside == ["metrics.json"]
    assert "url(" not in page.read_text()
    assert "@import" not in page.read_text()
    policy = next(attrs["content"] for _, attrs in outline.tags if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'")


def test_pictures_are_the_files_beside_the_report(page, outline):
    source = next(
        attrs["src"] for tag, attrs in outline.tags if tag == "img" and attrs.get("src", "").startswith("data")
    )
    png = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    assert png.startswith(b"\x89PNG")
    assert png == (page.parent / "figures" / "usage.png").read_bytes()


def test_data_behind_a_figure_is_json(outline):
    text = next(word for word in outline.words if word.startswith("{"))
    assert json.loads(text) == {"counts": [5, 2, 1], "nan": None}


def test_navigation_reaches_every_section(outline):
    targets = {attrs.get("href", "")[1:] for tag, attrs in outline.tags if tag == "a" and attrs["href"].startswith("#")}
    assert targets == {attrs["id"] for tag, attrs in outline.tags if tag == "section"}


def test_equal_content_is_an_equal_file(page, tmp_path):
    sections = [Section("Codes", figures=[usage_figure()])]
    first = write_report(tmp_path / "a.html", title="t", subtitle="s", sections=sections).read_bytes()
    sections = [Section("Codes", figures=[usage_figure()])]
    assert write_report(tmp_path / "b.html", title="t", subtitle="s", sections=sections).read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html", "figures"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (19.523456, "19.52"),
        (0.1, "0.1"),
        (-0.256789, "−0.2568"),
        (0.0, "0"),
        (128, "128"),
        (60000, "60,000"),
        (1234567.8, "1,234,568"),
        (3.21e-9, "3.210e-09"),
        (np.float32(0.5), "0.5"),
        (np.int64(7), "7"),
        (True, "yes"),
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "∞"),
        ("word", "word"),
    ],
)
def test_cells(value, words):
    assert format_cell(value) == words


def test_a_column_has_one_number_of_decimals():
    rows = [["a", 20.961, 0.5, 3, Interval(1.0, 0.9, 1.1)], ["b", 3.5, 0.25, 4000, Interval(12.345, 12.3, 12.5)]]
    cells = format_table(Table("", ["name", "dB", "share", "count", "interval"], rows))
    assert [[cell.words for cell in row] for row in cells] == [
        ["a", "20.96", "0.5000", "3", "1.00"],
        ["b", "3.50", "0.2500", "4,000", "12.35"],
    ]
    assert [row[4].interval for row in cells] == ["0.90 to 1.10", "12.30 to 12.50"]


def test_a_row_of_a_mixed_table_has_decimals_of_its_own():
    cells = format_table(Table("", ["figure", "value"], [["x", 20.961], ["y", 0.123456], ["z", 7]], mixed=True))
    assert [row[1].words for row in cells] == ["20.96", "0.1235", "7"]


def test_rows_of_a_mixed_table_with_one_unit_have_one_number_of_decimals():
    rows = [
        ["prior [bits per code]", Interval(3.462, 3.38, 3.54)],
        ["unigram [bits per code]", Interval(6.5536, 6.509, 6.59)],
        ["PSNR [dB]", 20.961],
        ["items: median", 12.0],
    ]
    assert [row[1].words for row in format_table(Table("", ["figure", "value"], rows, mixed=True))] == [
        "3.46", "6.55", "20.96", "12"
    ]  # fmt: skip


def test_arrows_point_to_the_better_direction(tmp_path):
    table = Table("T", ["name", "PSNR", "bits"], [["a", 1.0, 2.0]], higher=["PSNR"], lower=["bits"])
    rows = Table("R", ["figure", "value"], [["loss", 1.0], ["n", 2]], lower=["loss"], mixed=True)
    page = write_report(tmp_path / "x.html", title="", subtitle="", sections=[Section("A", tables=[table, rows])])
    text = re.sub(r"<[^>]*>", "", page.read_text()).replace("&nbsp;", " ")
    assert ("PSNR ↑" in text, "bits ↓" in text, "loss ↓" in text, "n ↑" in text) == (True, True, True, False)


def test_findings_lead_to_their_figures(tmp_path):
    image = np.full((4, 4, 1), 0.5)
    tile = Tile(image, "0 read as 8", image, "training image 3", marked=True)
    section = Section(
        "A",
        figures=[usage_figure()],
        findings=[Finding("Use", "All codes, see `code`.", "usage"), Finding("Next", "Go on.", "A table")],
        gallery=Gallery("Samples", [tile], "samples", 10),
        tables=[Table("A table", ["x"], [[1]])],
    )
    text = write_report(tmp_path / "x.html", title="", subtitle="", sections=[section]).read_text()
    for anchor in ("usage", "a-table"):
        assert f'href="#{anchor}"' in text
        assert f'id="{anchor}"' in text
    assert "0 read as 8" in text
    assert "training image 3" in text
    assert text.count('class="tile marked"') == 1


def test_json_of_records_and_arrays():
    value = {"a": np.arange(2), "b": Interval(1.0, np.float32(0.5), float("inf")), 3: [True, None, "x"]}
    assert to_json(value) == {
        "a": [0, 1],
        "b": {"value": 1.0, "low": 0.5, "high": None},
        "3": [True, None, "x"],
    }
    assert to_json(1 / 3) == 0.333333


def test_refusals(tmp_path):
    twice = [Section("A", figures=[usage_figure()]), Section("B", figures=[usage_figure("Usage")])]
    with pytest.raises(ValueError, match="a distinct name"):
        write_report(tmp_path / "x.html", title="", subtitle="", sections=twice)
    ragged = [Section("A", tables=[Table("T", ["a", "b"], [[1]])])]
    with pytest.raises(ValueError, match="expected 2 cells per row in 'T', got 1"):
        write_report(tmp_path / "x.html", title="", subtitle="", sections=ragged)
    with pytest.raises(ValueError, match="got set"):
        to_json({1, 2})
    assert not (tmp_path / "x.html").exists()


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium")
def test_in_a_browser(page):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        colours = {}
        for scheme in ("light", "dark"):
            tab = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
            requests, messages = [], []
            tab.on("request", lambda request, seen=requests: seen.append(request.url))
            tab.on("console", lambda message, seen=messages: seen.append(message.text))
            tab.goto(page.as_uri())
            assert tab.evaluate("[...document.querySelectorAll('figure img')].every(i => i.naturalWidth > 0)")
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert tab.locator("nav a[aria-current]").all_inner_texts() == ["What was <run>"]
            colours[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            tab.locator("figure button").click()
            assert tab.locator("dialog img").is_visible()
            tab.locator("dialog").click(position={"x": 5, "y": 5})
            assert not tab.locator("dialog img").is_visible()
            assert [url for url in requests if not re.match("data:|" + re.escape(page.as_uri()), url)] == []
            assert messages == []
        browser.close()
    assert (
        sum(map(int, re.findall(r"\d+", colours["dark"])))
        < 150
        < 600
        < sum(map(int, re.findall(r"\d+", colours["light"])))
    )
