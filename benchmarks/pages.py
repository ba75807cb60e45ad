"""The pages after a cold start: from the command to the first answer and the first picture in a headless Chromium.

    python benchmarks/pages.py [--rounds 3]
    python benchmarks/pages.py --screenshots docs   # the pictures of the documentation, instead

Server and browser share this machine's cores; both models are the tiny ones. Loopback only.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

QUESTION, PROMPT = "猫在哪里？", "草地上有一只猫"


def ask(page):
    """Asks the page's picture, and waits for the whole answer."""
    page.fill("#question textarea", QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_selector("#talk .message-content:has-text('左上角')")


def paint(page):
    """Paints a picture of 50 steps with previews, and waits for it."""
    page.fill("#prompt textarea", PROMPT)
    page.click("#paint")
    page.wait_for_selector("#stage .stage")
    page.wait_for_selector("#stage .stage", state="detached")
    page.wait_for_selector("#pictures img")


def measured(times, name, action, *arguments):
    """What an action returns; its seconds are noted."""
    start = time.perf_counter()
    result = action(*arguments)
    times.setdefault(name, []).append(time.perf_counter() - start)
    return result


def opened(browser, address, field):
    """A page in a browser without a cache, once its field can be written to."""
    page = browser.new_context(locale="zh-CN").new_page()
    page.set_default_timeout(120_000)
    page.goto(address)
    page.wait_for_selector(field)
    return page


def start():
    """A running `viscpm demo` and its address."""
    command = [sys.executable, "-m", "viscpm_hf", "demo", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return process, found[0]
    raise SystemExit(f"viscpm demo ended with {process.wait()}")


def measure(browser, times):
    """One cold start."""
    begin = time.perf_counter()
    process, address = measured(times, "the command until the address is told", start)
    try:
        chat = measured(times, "the Chat page opens", opened, browser, address, "#question textarea")
        measured(times, "the first answer, from Enter", ask, chat)
        times.setdefault("the command until the first answer", []).append(time.perf_counter() - begin)
        chat.wait_for_selector("#question .submit-button")
        chat.click("#clear")
        chat.wait_for_selector("#talk .example")
        measured(times, "another answer", ask, chat)
        painting = measured(times, "the Paint page opens", opened, browser, f"{address}/zh/paint/", "#prompt textarea")
        measured(times, "the first picture, 50 steps, from the click", paint, painting)
        measured(times, "another picture", paint, painting)
    finally:
        process.terminate()
        process.wait()


def photograph(browser, folder):
    """A conversation and a gallery, as a friend would be shown them."""
    process, address = start()
    view = {"viewport": {"width": 1200, "height": 720}}
    try:
        chat = browser.new_context(locale="zh-CN", **view).new_page()
        chat.set_default_timeout(120_000)
        chat.goto(address)
        for number, question in enumerate((QUESTION, "它是什么颜色的？", "哪些可以吃？"), 1):
            chat.wait_for_selector("#question .submit-button")
            chat.fill("#question textarea", question)
            chat.keyboard.press("Enter")
            chat.wait_for_selector(f"#talk .message-content >> nth={2 * number - 1}")
        chat.wait_for_selector("#question .submit-button")
        chat.screenshot(path=folder / "page_chat.png")
        painting = browser.new_context(locale="en-US", **view).new_page()
        painting.set_default_timeout(120_000)
        painting.goto(f"{address}/en/paint/")
        painting.click("#settings button >> nth=0")
        painting.fill("#seed textarea", "2023")
        painting.click("#settings button >> nth=0")
        prompts = "a car on the sand", "an apple to the left of a banana", "a rocket at night", "a cat on the grass"
        for number, prompt in enumerate(prompts, 1):
            painting.fill("#prompt textarea", prompt)
            painting.click("#paint:enabled")
            painting.wait_for_selector(f"#pictures .thumbnail-item >> nth={number - 1}")
            painting.wait_for_selector("#paint:enabled")
        painting.wait_for_function("[...document.querySelectorAll('#pictures img')].every((each) => each.complete)")
        painting.screenshot(path=folder / "page_paint.png", full_page=True)
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="cold starts")
    parser.add_argument("--screenshots", type=Path, metavar="FOLDER", help="take them, and measure nothing")
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {}
    with sync_playwright() as driver:
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        if arguments.screenshots:
            photograph(browser, arguments.screenshots)
            return
        for _ in range(arguments.rounds):
            measure(browser, times)
    print("| seconds | median | lowest | highest |\n|---|---|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} |")


if __name__ == "__main__":
    main()
