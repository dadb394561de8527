"""
The pictures of report and token map in README and docs, from real runs: docs/images/{report,token_map}*.png

    make demo && htpo demo --objective dapo      # runs/laptop
    python benchmarks/laptop_seeds.py            # runs/seeds, five seeds of each objective
    python scripts/screenshots.py                # `report` or `token_map` behind it: these pictures alone

Needs Chromium, `apt install chromium`.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from htpo_trl.report import write_report
from htpo_trl.tokens import write_token_map


ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
SETS = [f"{name}=runs/seeds/{name}-seed{seed}" for name in ("dapo", "htpo") for seed in range(5)]
RUN = "runs/laptop/htpo-seed0"


def main(parts: list[str]) -> None:
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])

        def shoot(source: Path, name: str, height: int, hover: str | None = None) -> None:
            page = browser.new_page(viewport={"width": 1200, "height": height}, color_scheme="light")
            page.goto(source.as_uri())
            if hover:
                page.locator(hover).first.hover()
                page.locator("#tip").wait_for()
            page.screenshot(path=IMAGES / f"{name}.png")

        if "report" in parts:
            shoot(write_report(SETS, place), "report", 1500)
            with Image.open(Path(place) / "learning.png") as picture:
                picture.quantize().save(IMAGES / "report_learning.png")  # a third of the size
        if "token_map" in parts:
            # A step in which a rule changed one of the recorded tokens.
            shoot(write_token_map(RUN, 120, output=Path(place) / "one.html"), "token_map", 900, ".tokens .e3")
            versus = write_token_map(RUN, 120, "high-entropy-only", Path(place) / "two.html")
            shoot(versus, "token_map_versus", 1000)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:] or ["report", "token_map"])
