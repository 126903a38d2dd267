"""Makes docs/images/web_demo.png: the web demo with an adapter, in Chromium.

    python -m any2point_hf.example                          # trains one on the built-in shapes: demo_output
    python docs/make_web_demo_screenshot.py demo_output  # and --width 390 for a phone, --dark, --output elsewhere

The server's own time is on the picture: make it on a machine that does nothing else.
"""

import argparse
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

PICTURE = Path(__file__).parent / "images" / "web_demo.png"
CHROMIUM_ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # WebGL without a GPU
PATIENCE = 120_000  # milliseconds


def main() -> None:
    """Serves the adapter, looks at the page and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="+", help="folders or Hub ids of adapters")
    parser.add_argument("--output", type=Path, default=PICTURE)
    parser.add_argument("--width", type=int, default=1200, help="of the window, in pixels")
    parser.add_argument("--shape", default="lamp", help="the built-in shape that is shown")
    parser.add_argument("--steps-back", type=int, default=0, help="from the last block to the one that is shown")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    models = [word for model in options.model for word in ("--model", model)]
    command = [sys.executable, "-m", "any2point_hf", "demo", "--port", str(port), *models]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if not any(line.startswith("serving") for line in server.stdout):
            sys.exit("the server did not start")
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
            window = {"width": options.width, "height": 800}
            page = browser.new_page(viewport=window, color_scheme="dark" if options.dark else "light")
            page.set_default_timeout(PATIENCE)
            page.goto(f"http://127.0.0.1:{port}")
            _choose(page, options.shape, options.steps_back)
            page.screenshot(full_page=True, path=options.output)
            browser.close()
    finally:
        server.terminate()
        server.wait(timeout=60)
    print(f"{options.output}: {options.output.stat().st_size / 1e3:.0f} kB")


def _choose(page: Page, shape: str, steps_back: int) -> None:
    """Another shape than the first, and one of the blocks, once they are drawn."""
    page.locator("#cloud canvas").first.wait_for()
    page.get_by_role("radio", name=shape, exact=True).check()
    page.locator("#message", has_text=f"built-in {shape}").wait_for()
    slider = page.locator("#block input[type=range]")
    for _ in range(steps_back):
        slider.press("ArrowLeft")
    page.locator("h1").click()  # the focus leaves the slider
    page.locator("#cloud canvas").first.wait_for()
    page.wait_for_timeout(3000)  # WebGL in software draws some frames late, and tells nobody when


if __name__ == "__main__":
    main()
