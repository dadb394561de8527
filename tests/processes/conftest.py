"""What tests of several pages share."""

import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

from ..tiny import tiny_model


@pytest.fixture(scope="module")
def directory(tmp_path_factory, tokenizer):
    """A directory with a tiny model, in which the runs of a module are."""
    path = tmp_path_factory.mktemp("runs")
    tiny_model().save_pretrained(path / "model")
    tokenizer.save_pretrained(path / "model")
    return path


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        if os.environ.get("CI") == "true":
            pytest.fail("The page is tested in Chromium, which is not on PATH: apt-get install chromium.")
        pytest.skip("no chromium on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()
