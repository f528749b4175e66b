"""The page as a person has it: the real command, and a real browser without a window."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="needs selenium: pip install '.[test]'"
)

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PROGRAM is None or DRIVER is None, reason="needs Chromium and its chromedriver"
    ),
]
PATIENCE = 120
"""Seconds after which something that was waited for is taken not to come."""
PICTURES = "#pictures .thumbnail-item img"


@pytest.fixture(scope="module")
def address(
    serving: Callable[..., AbstractContextManager[str]],
    shelf: Path,
    tiny_models: dict[str, Path],
) -> Iterator[str]:
    with serving(tiny_models["base"], shelf, "--prompt=forest, night") as url:
        yield url


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = PROGRAM
    folder = tmp_path_factory.mktemp("browser")
    for each in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1180,1600",
                 f"user-data-dir={folder}"):  # fmt: skip
        options.add_argument(f"--{each}")
    # with its path given nothing is looked for, nor downloaded
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield made
    made.quit()


class Page:
    """What a person does with the page, and sees of it."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.get(address)
        self.until(lambda: self.button("Generate").is_enabled())

    def until(self, what: Callable[[], Any]) -> Any:
        """Wait for something; what is on its way may not be there yet, or not any more."""
        from selenium.common.exceptions import NoSuchElementException as Missing
        from selenium.common.exceptions import StaleElementReferenceException as Stale

        wait = WebDriverWait(self.browser, PATIENCE, 0.05, ignored_exceptions=(Missing, Stale))
        return wait.until(lambda _: what())

    def button(self, name: str) -> Any:
        return self.browser.find_element(By.XPATH, f"//button[normalize-space()='{name}']")

    def click(self, element: Any) -> None:
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def field(self, label: str) -> Any:
        return self.browser.find_element(
            By.XPATH, f"//label[contains(., '{label}')]//*[self::input or self::textarea]"
        )

    def fill(self, element: Any, text: str) -> None:
        element.send_keys(Keys.CONTROL, "a")
        element.send_keys(text, Keys.TAB)

    def number(self, label: str) -> Any:
        return self.browser.find_element(
            By.CSS_SELECTOR, f"input[aria-label='number input for {label}']"
        )

    def choose(self, adapter: str) -> None:
        self.click(self.browser.find_element(By.CSS_SELECTOR, "input[aria-label='Adapter']"))
        self.until(
            lambda: self.browser.find_element(By.CSS_SELECTOR, f"li[aria-label='{adapter}']")
        ).click()

    def infotext(self) -> str:
        return str(self.field("What is written into the file").get_attribute("value"))

    def pictures(self) -> list[str]:
        """Where the pictures that are shown, and are whole, come from."""
        shown = self.browser.find_elements(By.CSS_SELECTOR, PICTURES)
        whole = "return arguments[0].complete && arguments[0].naturalWidth > 0"
        if not all(self.browser.execute_script(whole, each) for each in shown):
            return []
        return [each.get_attribute("src") for each in shown]

    def draw(self, name: str, said: str, count: int = 1) -> list[str]:
        """Press a button, and wait for as many other pictures, of which it is said how."""
        before = self.pictures()
        self.click(self.button(name))
        self.until(
            lambda: (
                said in self.infotext()
                and len(self.pictures()) == count
                and not set(self.pictures()) & set(before)
            )
        )
        return self.pictures()

    def captions(self) -> list[str]:
        found = self.browser.find_elements(By.CSS_SELECTOR, "#pictures .caption-label")
        return [each.text for each in found]


@pytest.fixture
def page(browser: Any, address: str) -> Page:
    return Page(browser, address)


def test_a_picture_is_drawn_and_its_seed_taken_again(page: Page) -> None:
    page.choose("lora")
    page.draw("Generate", "wood_elf, forest, night <lora:lora:1>")
    seed = page.captions()[0].removeprefix("lora × 1, seed ")
    assert f"Seed: {seed}," in page.infotext()
    page.click(page.button("Take the last seed again"))
    page.until(lambda: page.field("Seed (-1: any)").get_attribute("value") == seed)
    page.choose("dora")
    page.draw("Generate", "<lora:dora:1>")
    assert page.captions() == [f"dora × 1, seed {seed}"]


def test_another_adapter_and_strength_draw_another_picture(page: Page) -> None:
    page.fill(page.field("Seed (-1: any)"), "3")
    drawn = set()
    for adapter in ("dora", "text", "lora"):
        page.choose(adapter)
        drawn |= set(page.draw("Generate", f"<lora:{adapter}:1>"))
        assert page.captions() == [f"{adapter} × 1, seed 3"]
    page.fill(page.number("Strength"), "-0.5")
    drawn |= set(page.draw("Generate", "<lora:lora:-0.5>"))
    page.choose("(base)")
    drawn |= set(page.draw("Generate", "\nSteps: 2"))
    assert page.captions() == ["base, seed 3"] and "<lora" not in page.infotext()
    assert len(drawn) == 5


def test_base_and_adapter_stand_side_by_side(page: Page) -> None:
    page.choose("dora")
    page.draw("Base | adapter", "<lora:dora:1>", 2)
    seeds = {caption.rpartition(" ")[2] for caption in page.captions()}
    assert [caption.partition(",")[0] for caption in page.captions()] == ["base", "dora × 1"]
    assert len(seeds) == 1
    first, second = page.browser.find_elements(By.CSS_SELECTOR, PICTURES)
    assert first.location["y"] == second.location["y"]
    assert first.location["x"] < second.location["x"]


def test_a_grid_is_seen_as_a_whole(page: Page) -> None:
    page.choose("dora")
    page.click(page.browser.find_element(By.XPATH, "//button[contains(., 'Strength × seed')]"))
    page.until(lambda: page.button("Draw the grid").is_displayed())
    page.fill(page.field("Strengths"), "0, 1, 2")
    page.draw("Draw the grid", 'Grid: "strengths 0, 1, 2; 2 seeds from')
    (sheet,) = page.browser.find_elements(By.CSS_SELECTOR, PICTURES)
    size = page.browser.execute_script(
        "return [arguments[0].naturalWidth, arguments[0].naturalHeight]", sheet
    )
    shown = sheet.size
    assert shown["height"] / shown["width"] == pytest.approx(size[1] / size[0], rel=0.02)
    page.fill(page.field("Strengths"), "a")
    page.click(page.button("Draw the grid"))
    page.until(lambda: "are no numbers with commas between" in page_text(page))


def test_progress_is_seen_and_a_stop_ends_it(page: Page) -> None:
    page.choose("lora")
    page.fill(page.number("Steps"), "150")
    for side in ("Width", "Height"):
        page.fill(page.number(side), "256")
    page.click(page.button("Generate"))
    page.until(lambda: "denoising" in page_text(page) and "/150 steps" in page_text(page))
    page.click(page.button("Stop"))
    page.until(lambda: "stopped" in page_text(page).lower())
    page.until(lambda: "denoising" not in page_text(page))
    assert page.pictures() == []
    page.fill(page.number("Steps"), "2")
    page.draw("Generate", "Steps: 2,")


def test_a_phone_needs_no_scrolling_to_the_side(page: Page) -> None:
    screen = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        page.until(lambda: page.browser.execute_script("return innerWidth") <= 390)
        page.draw("Base | adapter", "Steps: 2", 2)
        width = page.browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390
        tops = {page.button(name).location["y"] for name in ("Generate", "Base | adapter", "Stop")}
        assert len(tops) == 1
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def page_text(page: Page) -> str:
    return str(page.browser.find_element(By.TAG_NAME, "body").text)
