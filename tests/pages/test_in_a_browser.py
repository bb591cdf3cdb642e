"""The pages in Chromium: nothing is fetched, nothing overflows, and all can read them."""

import shutil

import pytest

from .test_pages import PAGES

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")

WIDTHS = [400, 1000, 1600]
# Elements beyond the window, but for what is in a container that scrolls, or is cut off on purpose.
BEYOND = """
() => {
    const width = document.documentElement.clientWidth;
    const isHeld = (element) => {
        for (let one = element.parentElement; one; one = one.parentElement)
            if (one.classList.contains("scroll")) return true;
        return false;
    };
    return [...document.body.querySelectorAll("*")]
        .filter((one) => !isHeld(one))
        .filter((one) => {
            const box = one.getBoundingClientRect();
            return box.width > 0 && (box.right > width + 1 || box.left < -1);
        })
        .map((one) => one.outerHTML.slice(0, 200));
}
"""
OPEN_ALL = "() => document.querySelectorAll('details').forEach((one) => { one.open = true; })"
OVERFLOW = "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file_of(tmp_path_factory):
    """Write a page once, and return its address."""
    directory, written = tmp_path_factory.mktemp("pages"), {}

    def file_of(name):
        if name not in written:
            written[name] = directory / f"{name}.html"
            written[name].write_text(PAGES[name](), encoding="utf-8")
        return written[name].as_uri()

    return file_of


@pytest.fixture
def opened(browser):
    """Open an address; fails where the page says or asks for anything."""
    contexts, told, asked = [], [], []

    def opened(address, width, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append((request.url, address)))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert told == []
    assert [url for url, address in asked if url != address] == []


@pytest.mark.parametrize("name", PAGES)
def test_nothing_overflows(name, file_of, opened):
    page = opened(file_of(name), WIDTHS[0])
    page.evaluate(OPEN_ALL)
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(OVERFLOW) <= 0
        assert page.evaluate(BEYOND) == []


def test_an_overflow_would_be_seen(opened, tmp_path):
    file = tmp_path / "wide.html"
    file.write_text("<!doctype html><body><p style='width: 900px'>wide</p>")
    page = opened(file.as_uri(), 400)
    assert page.evaluate(OVERFLOW) > 0
    assert len(page.evaluate(BEYOND)) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name",
    ["run-failed", "run-nasty", "run-running", "report-full", "report-empty", "report-nasty"],
)
def test_everyone_can_read_it(name, scheme, file_of, opened):
    page = opened(file_of(name), 1000, bypass_csp=True, color_scheme=scheme)
    page.evaluate(OPEN_ALL)
    assert violations(page) == []


def test_what_cannot_be_read_would_be_seen(opened, tmp_path):
    file = tmp_path / "bad.html"
    file.write_text(
        "<!doctype html><html lang=en><title>bad</title><main><h1>bad</h1>"
        "<p style='color: #ccc; background: #fff'>pale</p><img src='data:,'></main>"
    )
    page = opened(file.as_uri(), 1000)
    assert {name for name, _ in violations(page)} == {"color-contrast", "image-alt"}


def violations(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    return [
        (found["id"], [node["html"][:200] for node in found["nodes"][:3]])
        for found in axe.run(page).response["violations"]
        if found["impact"] in {"serious", "critical"}
    ]


def test_text_in_charts_has_contrast_in_both_schemes(file_of, opened):
    """Axe does not look into drawings."""
    for scheme in ("light", "dark"):
        page = opened(file_of("run-failed"), 1000, color_scheme=scheme)
        pairs = page.evaluate(
            """() => {
                const body = getComputedStyle(document.body).backgroundColor;
                return [...document.querySelectorAll(".wide text")]
                    .map((one) => [getComputedStyle(one).fill, one.getAttribute("fill"), body]);
            }"""
        )
        on_page = {(fill, body) for fill, name, body in pairs if name != "var(--on-bar)"}
        assert len(on_page) >= 2
        assert min(contrast(*pair) for pair in on_page) >= 4.5
        bars = page.evaluate(
            """() => [...document.querySelectorAll(".wide path")]
                .filter((one) => (one.getAttribute("fill") || "").match(/--(yellow|red|green)/))
                .map((one) => getComputedStyle(one).fill)"""
        )
        [on_bar] = {fill for fill, name, _ in pairs if name == "var(--on-bar)"}
        assert len(set(bars)) == 3
        assert min(contrast(bar, on_bar) for bar in bars) >= 4.5


def contrast(one, other):
    """Return the contrast of two colours, as WCAG 2 defines it."""

    def luminance(color):
        parts = [int(part) / 255 for part in color.removeprefix("rgb(").rstrip(")").split(",")]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_one_size_of_a_chart_is_shown(file_of, opened):
    page = opened(file_of("run-failed"), 400)
    shown = (
        "() => ['wide', 'narrow'].map((one) => document.querySelector('.' + one).offsetHeight > 0)"
    )
    assert page.evaluate(shown) == [False, True]
    page.set_viewport_size({"width": 1000, "height": 900})
    assert page.evaluate(shown) == [True, False]


@pytest.mark.parametrize("name", ["run-many", "report-full", "report-nasty"])
@pytest.mark.parametrize("width", [400, 1600])
def test_text_in_charts_stays_in_them_and_can_be_read(name, width, file_of, opened):
    page = opened(file_of(name), width)
    found = page.evaluate(
        """() => [...document.querySelectorAll("svg")]
        .filter((svg) => svg.clientWidth)
        .map((svg) => {
            const box = svg.getBoundingClientRect();
            const texts = [...svg.querySelectorAll("text")].filter((one) => one.textContent);
            return {
                size: Math.min(...texts.map((one) => parseFloat(getComputedStyle(one).fontSize)))
                    * box.width / svg.viewBox.baseVal.width,
                out: texts.map((one) => [one.textContent, one.getBoundingClientRect()])
                    .filter(([_, text]) => text.left < box.left - 1 || text.right > box.right + 1)
                    .map(([words]) => words),
            };
        })"""
    )
    assert found
    assert [chart["out"] for chart in found] == [[]] * len(found)
    assert min(chart["size"] for chart in found) >= 9.5


def test_on_paper_it_is_light(file_of, opened):
    page = opened(file_of("run-failed"), 800, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(16, 21, 27)"
    page.emulate_media(media="print")
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_tables_that_scroll_can_be_reached_by_keyboard(file_of, opened):
    page = opened(file_of("run-failed"), 400)
    page.keyboard.press("Tab")
    seen = set()
    for _ in range(20):
        seen.add(page.evaluate("document.activeElement.getAttribute('aria-label')"))
        page.keyboard.press("Tab")
    assert {"Steps, in the order of the plan", "Artifacts, the oldest first"} <= seen
