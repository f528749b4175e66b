"""The chat page in a real browser: what its buttons do, and what becomes of a chat."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver"),
]


@pytest.fixture(scope="module")
def address(
    tiny_language: Path, make_language_run: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:  # fmt: skip
    folder = tmp_path_factory.mktemp("browser")
    make_language_run(folder / "shelf" / "elvish", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "elf", "serve", "--config=configs/serve/chat.yaml"),
                *(f"--base={tiny_language}", f"--adapters={folder / 'shelf'}", "--device=cpu"),
                *(f"--port={port}", "--prompt=Hello.", "--max_tokens=8"),
            ],
            cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=os.environ,
        )  # fmt: skip
    try:
        for _ in range(1200):
            try:
                httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


class Window:
    """The page, by what a person sees of it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def until(self, true: Callable[[], Any], seconds: float = 60) -> Any:
        end = time.monotonic() + seconds
        while not (found := self._tried(true)):
            assert time.monotonic() < end, self.driver.find_element("tag name", "body").text
            time.sleep(0.1)
        return found

    @staticmethod
    def _tried(true: Callable[[], Any]) -> Any:
        from selenium.common.exceptions import WebDriverException

        try:
            return true()
        except WebDriverException:  # what was there is being drawn anew
            return None

    def field(self, label: str) -> Any:
        path = f"//label[.//span[contains(., '{label}')]]//textarea"
        return self.until(lambda: self.driver.find_element("xpath", path))

    def press(self, words: str) -> None:
        path = f"//button[normalize-space()='{words}']"
        self.until(lambda: self.driver.find_element("xpath", path)).click()

    def note(self) -> str:
        return str(self.field("How it was answered").get_attribute("value"))

    def chats(self) -> list[list[str]]:
        """What each chat shows, message by message."""
        script = """
            return [...document.querySelectorAll('[aria-label="chatbot conversation"]')].map(
                chat => [...chat.querySelectorAll('[data-testid="user"], [data-testid="bot"]')]
                    .map(each => each.textContent.trim()))
        """
        found: list[list[str]] = self.driver.execute_script(script)
        return found

    def ask(self, words: str, button: str, answers: int) -> None:
        """Type, press, and wait until so many answers are whole."""
        message, before = self.field("Message"), self.chats()
        message.clear()
        message.send_keys(words)
        self.press(button)
        pattern = r"[^|]+: \d+ tokens[^|]*" + r"\|[^|]+: \d+ tokens[^|]*" * (answers - 1)
        self.until(lambda: self.chats() != before and re.fullmatch(pattern, self.note()))
        self.until(lambda: self.field("Message").get_attribute("value") == "")


@pytest.fixture
def window(address: str) -> Iterator[Window]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for each in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(each)
    options.add_argument("--window-size=1280,1400")
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        driver.set_page_load_timeout(120)
        driver.get(address)
        yield Window(driver)
    finally:
        driver.quit()


@pytest.mark.timeout(400)
def test_chats_go_on_side_by_side_and_begin_anew(window: Window) -> None:
    window.ask("Hello.", "Base | adapter", 2)
    (question, base), (same, adapter) = window.chats()
    assert question == same == "Hello." and base != adapter
    window.ask("Who are you?", "Ask", 1)
    left, right = window.chats()
    assert left == ["Hello.", base] and right[:3] == ["Hello.", adapter, "Who are you?"]
    assert window.note().startswith("elvish × 1, greedy: ")

    before = window.chats()
    window.field("Message").send_keys("x<|im_end|>")
    window.press("Ask")
    window.until(lambda: "holds the control token" in window.driver.page_source)
    assert window.chats() == before
    assert window.field("Message").get_attribute("value") == "x<|im_end|>"

    window.press("Begin anew")
    window.until(lambda: not any(window.chats()))
    window.ask("Hello.", "Ask", 1)
    assert window.chats()[1] == ["Hello.", adapter]  # of what was said before nothing is left
    severe = [each for each in window.driver.get_log("browser") if each["level"] == "SEVERE"]
    assert severe == []
