"""The page in a browser: points are drawn, hovering and choosing show texts, search finds, nothing leaves the page."""

import json
import shutil
import time

import numpy as np
import pytest

pytest.importorskip("bokeh", reason="needs the extra: pip install -e '.[map]'")
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra dev")

from selenium.webdriver.common.action_chains import ActionChains

from curation.atlas.page import write_page
from curation.atlas.points import Points
from tests.curation.atlas.test_page import HOSTILE

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no chromium and chromedriver; on Debian: apt install chromium-driver"
    ),
]
# a pixel's place, from Bokeh's own scales; and the text of the page with that of Bokeh's shadow roots
PLACE = """
const view = Object.values(Bokeh.index)[0] ?? [...Bokeh.index][0];
const box = view.canvas_view.el.getBoundingClientRect();
return [box.x + view.frame.x_scale.compute(arguments[0]), box.y + view.frame.y_scale.compute(arguments[1])];
"""
EVERY = """
const found = [];
const walk = (root) => root.querySelectorAll("*").forEach((each) => {
  found.push(each);
  if (each.shadowRoot) walk(each.shadowRoot);
});
walk(document);
"""
COLOURS = {"first": (0x00, 0x72, 0xB2), "second": (0xD5, 0x5E, 0x00)}  # by rank, of two values
N = 40


class Page:
    """The page of 40 points on a grid in a browser of 1,000 by 700 pixels."""

    def __init__(self, driver, places):
        self.driver, self.places = driver, places

    def script(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def wait(self, code, *arguments):
        """The value of JavaScript once it is true."""
        end = time.monotonic() + 30
        while not (value := self.script(code, *arguments)):
            assert time.monotonic() < end, f"never true: {code}"
            time.sleep(0.05)
        return value

    def pixel(self, i):
        return [round(value) for value in self.script(PLACE, *map(float, self.places[i]))]

    def move(self, i, click=False):
        actions = ActionChains(self.driver, duration=50)
        actions.w3c_actions.pointer_action.move_to_location(*self.pixel(i))
        (actions.click() if click else actions).perform()

    def leave(self):
        """Move the mouse off the map: what hovering shows would cover points."""
        actions = ActionChains(self.driver, duration=0)
        actions.w3c_actions.pointer_action.move_to_location(900, 10)
        actions.perform()
        self.wait(f"return (() => {{ {EVERY} return found.every((e) => !e.matches('.bk-tooltip-content')) }})()")

    def search(self, words):
        self.script("const e = document.getElementById('search'); e.value = arguments[0];"
                    "e.dispatchEvent(new Event('input'))", words)  # fmt: skip

    def image(self):
        from io import BytesIO

        from PIL import Image

        return np.asarray(Image.open(BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    texts = [*HOSTILE, *(f"text {i} of many" for i in range(len(HOSTILE), N))]
    kinds = ["common" if i % 2 or i < 4 else "rare" for i in range(N)]
    places = np.array([[i % 8, i // 8] for i in range(N)], dtype=float)
    columns = {"kind": kinds, HOSTILE[0]: [HOSTILE[2]] * N, HOSTILE[3]: [float(i) for i in range(N)]}
    points = Points(texts, columns, np.array([[10, 20], [10, 30], [11, 20]]))
    path = tmp_path_factory.mktemp("page") / "index.html"
    write_page(path, points, places, title=HOSTILE[1], subtitle="S", footer="F")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("headless=new", "no-sandbox", "use-angle=swiftshader", "enable-unsafe-swiftshader"):
        options.add_argument(f"--{argument}")
    options.add_argument("--window-size=1000,700")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.get(path.as_uri())
        opened = Page(driver, places)
        opened.wait("return document.body.dataset.ready")
        yield opened
    finally:
        driver.quit()


@pytest.fixture(autouse=True)
def nothing_chosen(page):
    page.search("")
    page.wait("return document.getElementById('count').textContent === ''")
    page.script("document.getElementById('close').click()")
    page.leave()


def close_to(pixel, colour):
    return np.abs(pixel - np.array(colour)).max() < 70  # points are a little transparent


def test_points_are_drawn_where_and_as_they_should_be(page):
    end = time.monotonic() + 20
    wanted = [(i, COLOURS["first" if i % 2 or i < 4 else "second"]) for i in range(N)]
    while True:
        image = page.image()
        wrong = [i for i, colour in wanted if not close_to(image[page.pixel(i)[1], page.pixel(i)[0]], colour)]
        if not wrong:
            break
        assert time.monotonic() < end, f"not drawn: {wrong}"
    legend = page.script("return document.getElementById('legend').innerText").split()
    assert legend == ["common", "22", "rare", "18"]


def test_hovering_shows_the_text(page):
    page.move(12)
    code = EVERY + "return found.filter((e) => e.matches('.bk-tooltip-content')).map((e) => e.innerText).join()"
    shown = page.wait(f"const text = (() => {{ {code} }})(); return text.includes('text 12') && text")
    assert shown.startswith("text 12 of many") and "kind: rare" in shown


def test_search_finds_by_all_words_in_any_case(page):
    page.search("TEXT many 13")
    page.wait("return document.getElementById('count').textContent === '1 of 40 points'")
    assert page.script("return document.getElementById('found').innerText") == "text 13 of many"
    time.sleep(0.3)
    image = page.image()
    seen = [
        i for i in range(N) if any(close_to(image[page.pixel(i)[1], page.pixel(i)[0]], c) for c in COLOURS.values())
    ]
    assert seen == [13]
    page.search("no such words")
    page.wait("return document.getElementById('count').textContent === '0 of 40 points'")


def test_links_lead_both_ways(page):
    shown = "return document.getElementById('text').textContent === arguments[0]"
    linked = "return [...document.querySelectorAll('#linked button')].map((e) => e.textContent)"
    page.move(10, click=True)
    page.wait(shown, "text 10 of many")
    assert page.script(linked) == ["text 20 of many", "text 30 of many"]
    page.script("document.querySelector('#linked button').click()")
    page.wait(shown, "text 20 of many")
    assert page.script(linked) == ["text 10 of many", "text 11 of many"]


def test_a_value_can_be_hidden_and_another_column_give_the_colour(page):
    def grey():
        image = page.image()
        return [
            i
            for i in range(N)
            if not any(close_to(image[page.pixel(i)[1], page.pixel(i)[0]], c) for c in COLOURS.values())
        ]

    first = "document.querySelector('#legend button').click()"
    page.script(first)
    time.sleep(0.5)
    found = grey()
    page.script(first)
    assert found == [i for i in range(N) if i % 2 or i < 4]
    page.script("const e = document.getElementById('colour'); e.value = '2'; e.dispatchEvent(new Event('change'))")
    assert page.wait("return document.querySelector('#legend .ramp') !== null")
    page.script("const e = document.getElementById('colour'); e.value = '0'; e.dispatchEvent(new Event('change'))")


def test_scrolling_zooms_in(page):
    width = "const r = Bokeh.documents[0].get_model_by_name('plot').x_range; return r.end - r.start"
    before = page.script(width)
    page.move(12)
    ActionChains(page.driver).scroll_from_origin(
        webdriver.common.actions.wheel_input.ScrollOrigin.from_viewport(*page.pixel(12)), 0, -400
    ).perform()
    page.wait(f"return (() => {{ {width} }})() < arguments[0] / 1.2", before)
    page.script("const p = Bokeh.documents[0].get_model_by_name('plot'); p.x_range.reset?.(); p.reset?.emit()")


def test_no_markup_of_the_data_becomes_elements_or_runs(page):
    made = EVERY + "return found.filter((e) => e.matches('img, b, [onerror], [onmouseover]')).length"
    tooltip = EVERY + "return found.find((e) => e.matches('.bk-tooltip-content'))?.textContent"
    for i, text in enumerate(HOSTILE):
        page.leave()
        page.move(i)
        shown = page.wait(f"return (() => {{ {tooltip} }})()")
        assert text[:9] in shown and HOSTILE[2] in shown  # which is a value of a column
        assert page.script(made) == 0
        page.move(i, click=True)
        page.wait("return document.getElementById('text').textContent === arguments[0]", text)
        page.search(text.split()[0])
        page.wait("return document.getElementById('found').childElementCount > 0")
        assert page.script(made) == 0
        page.search("")
        page.wait("return document.getElementById('count').textContent === ''")
    heading = page.script("return document.querySelector('h1').textContent")
    assert page.script("return document.title") == heading == HOSTILE[1]
    assert page.script("return window.hacked === undefined")
    assert page.script(EVERY + "return found.filter((e) => e.matches('script')).length") == 6


def test_nothing_is_fetched(page):
    events = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    addresses = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert len([address for address in addresses if address.startswith("file:")]) == 1  # the page: the log works
    assert [address for address in addresses if not address.startswith(("file:", "data:"))] == []
    errors = [entry["message"] for entry in page.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert errors == []
