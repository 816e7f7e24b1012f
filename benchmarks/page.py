"""The page of DETR R50 at 800 x 1066 with all sites, and of Deformable DETR R50: size, opening, pointer to new map.

python -m benchmarks.page [--moves 60]

Headless Chromium opens the file from disk and moves the pointer; the page measures each frame from the event to the
drawn map. Needs chromium and Playwright.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

import detrscope as ds
from benchmarks.ratio import machine
from detrscope.explorer.report import write_report

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
MOVE = "([x, y]) => { detrscope.app.follows = true; Object.assign(detrscope.app.state, {x, y}); detrscope.app.soon(); }"
QUERY = "(query) => { detrscope.app.hovered = null; detrscope.app.hover(query); }"


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--moves", type=int, default=60)
    moves = parser.parse_args().moves
    image = torch.randint(0, 256, (3, 480, 640), dtype=torch.uint8)
    print(machine())
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name in ("detr-r50", "deformable-detr-r50"):
            detector = ds.load(name, weights="random", device="cpu")
            trace = detector.trace(image)
            path = Path(folder) / f"{name}.html"
            left_out = write_report([trace], path)
            page = browser.new_page(viewport={"width": 1400, "height": 950})
            started = time.perf_counter()
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready]")
            opened = time.perf_counter() - started
            kept = f"{len(trace.sites) - len(left_out)} of {len(trace.sites)} sites"
            line = f"{name}: {path.stat().st_size / 1e6:.1f} MB, {kept}, open in {opened:.2f} s"
            points = [[20 + 600 * i / moves, 20 + 440 * ((7 * i) % moves) / moves] for i in range(moves)]
            queries = [i % trace.queries for i in range(moves)]
            for kind, script, values in (("a point's row", MOVE, points), ("a query's row", QUERY, queries)):
                page.check(f'input[value="{"point" if script is MOVE else "query"}"]')
                took = []
                for value in values:
                    page.evaluate("delete document.documentElement.dataset.took")
                    page.evaluate(script, value)
                    page.wait_for_timeout(30)
                    shown = page.evaluate("document.documentElement.dataset.took ?? ''")
                    took += [float(shown)] if shown else []
                middle, spread = statistics.median(took), f"{min(took):.1f}-{max(took):.1f}"
                line += f"; {kind}: {middle:.1f} ms ({spread}, {len(took)} moves)"
            print(line)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
