"""
The pictures of report and token map in README and docs, from real runs: docs/images/{report,token_map}*.png

    htpo train --config laptop --record_tokens_steps 1      # runs/laptop-htpo
    python benchmarks/laptop_seeds.py --run runs/seeds      # five seeds of each objective
    python scripts/screenshots.py                           # `report` or `token_map` behind it: these pictures alone

Needs Chromium, `apt install chromium`.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from htpo_trl.report import write_report
from htpo_trl.tokens import write_token_map
from htpo_trl.tokens.record import recorded_steps


ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
SETS = [f"{name}=runs/seeds/{name}-seed{seed}" for name in ("dapo", "htpo") for seed in range(5)]
RUN = "runs/laptop-htpo"


def main(parts: list[str]) -> None:
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])

        def opened(source: Path, height: int) -> Page:
            page = browser.new_page(viewport={"width": 1200, "height": height}, color_scheme="light")
            page.goto(source.as_uri())
            return page

        def shoot(source: Path, name: str, height: int) -> None:
            opened(source, height).screenshot(path=IMAGES / f"{name}.png")

        def shoot_token(height: int) -> int:
            """
            With what is told of a token: one that a rule changed, in the last step in which one of those in sight was;
            such tokens are few, and where there is none, the first. Returns the step.
            """
            for step in sorted(recorded_steps(RUN), reverse=True):
                page = opened(write_token_map(RUN, step, output=Path(place) / "one.html"), height)
                page.locator(".tokens .t").first.wait_for()
                seen = page.locator(".tokens .t").evaluate_all(
                    "all => all.map(t => [t.matches('.e0'), t.getBoundingClientRect().bottom])"
                )
                if changed := [i for i, (is_same, bottom) in enumerate(seen) if not is_same and bottom < height - 150]:
                    break
            page.locator(".tokens .t").nth(next(iter(changed), 0)).hover()
            page.locator("#tip").wait_for()
            page.screenshot(path=IMAGES / "token_map.png")
            return step

        if "report" in parts:
            shoot(write_report(SETS, place), "report", 1500)
            with Image.open(Path(place) / "learning.png") as picture:
                picture.quantize().save(IMAGES / "report_learning.png")  # a third of the size
        if "token_map" in parts:
            step = shoot_token(900)
            versus = write_token_map(RUN, step, "high-entropy-only", Path(place) / "two.html")
            shoot(versus, "token_map_versus", 1000)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:] or ["report", "token_map"])
