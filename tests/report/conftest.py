"""A headless Chromium, and pages that were made of runs."""

import shutil

import pytest

from sam_pipeline.report.report import make_report
from sam_pipeline.results.results import Results
from sam_pipeline.results.selection.mask_selection import MaskSelection

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, driven by playwright."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("there is no Chromium here; on Debian: apt-get install chromium-headless-shell")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # As root Chromium does not start within its sandbox; it opens our own pages alone.
        launched = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def complaints():
    """What the browser complains of, and what it asks the network for; whatever is left of it fails the test."""
    found = []
    yield found
    assert found == []


@pytest.fixture
def open_page(browser, complaints, tmp_path):
    """Open HTML from a file."""
    contexts = []

    def open_html(html, *, width=1440, scheme="light", **options):
        path = tmp_path / f"page-{len(contexts)}.html"
        path.write_text(html, encoding="utf-8")
        viewport = {"width": width, "height": 900}
        context = browser.new_context(viewport=viewport, color_scheme=scheme, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
        page.goto(path.as_uri())
        return page

    yield open_html
    for context in contexts:
        context.close()


@pytest.fixture
def html_of():
    """The page of a run."""

    def make(output, *, selection=None, **options):
        return make_report(Results.open(output, {}, MaskSelection(**(selection or {}))), **options)

    return make
