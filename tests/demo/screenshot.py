"""Makes docs/demo.png anew: python tests/demo/screenshot.py RUN docs/demo.png

First caption of the run, seed 0, nothing chosen by its looks; one region is repainted, and the image is kept.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from conftest import BROWSERS, Demo
from playwright.sync_api import sync_playwright


def main(run: str, picture: str) -> None:
    browser_path = next(filter(None, map(shutil.which, BROWSERS)))
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        command = ["-m", "seggen_hf.cli", "demo", Path(run).resolve(), "--out", folder / "decisions"]
        demo = Demo(command, folder / "log", folder)
        try:
            browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 1120})
            page.goto(demo.url)
            page.uncheck("#new-seed input")
            page.click("#draw")
            page.wait_for_selector("#map img", timeout=120_000)
            page.click("#label input")
            page.fill("#label input", "water")
            page.keyboard.press("Enter")
            box = page.locator("#map img").bounding_box()
            page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] - 4)
            page.wait_for_function("document.querySelector('#legend').innerText.includes('water')")
            page.click("#paint")
            page.wait_for_selector("#answer img", timeout=120_000)
            page.click("#keep")
            page.wait_for_function("document.querySelector('#status').innerText.startsWith('Kept')")
            page.mouse.move(5, 5)
            page.wait_for_timeout(1000)
            page.screenshot(path=f"{picture}.tmp", type="png", full_page=True)
            os.replace(f"{picture}.tmp", picture)
        finally:
            demo.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
