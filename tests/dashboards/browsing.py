"""A real browser on a real dashboard: how the browser tests start both, and find their way."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

VERB = "import sys; from automl_prune.cli import main; sys.exit(main())"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LAPTOP = {"width": 1366, "height": 768}
PHONE = {"width": 390, "height": 844}


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def chromium():
    """A headless browser of the system; Playwright brings none of its own here."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def start_verb(*words, folder: Path, **environment) -> subprocess.Popen:
    """The command line as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", VERB, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


@contextmanager
def serving(url: str, *words: str, folder: Path, **environment):
    """The verb ``dashboard`` on any free port; gives the address of the explorer."""
    process = start_verb(
        "dashboard", "--storage", url, "--port", "0", *words, folder=folder, **environment
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        found = re.search(r"explorer +(\S+)", "".join(lines))
        assert found, "".join(lines)
        yield found[1]
    finally:
        process.kill()
        process.communicate()


@contextmanager
def opened(browser, *, size=LAPTOP, dark=False, base=None, expected="nothing"):
    """A page in a context of its own; ends with a failure if anything went wrong on it.

    Args:
        browser: of :func:`chromium`.
        size: of the window.
        dark: what the reader's system prefers.
        base: address that every request must go to; None: not looked at.
        expected: an error on the console that has these words is no failure.
    """
    context = browser.new_context(
        viewport=size, color_scheme="dark" if dark else "light", accept_downloads=True
    )
    page = context.new_page()
    page.set_default_timeout(15_000)
    problems = []
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on(
        "console",
        lambda message: (
            problems.append(f"console: {message.text}")
            if message.type == "error" and expected not in message.text
            else None
        ),
    )

    def look(request):
        if base and not request.url.startswith((base, "data:", "blob:")):
            problems.append(f"elsewhere: {request.url}")

    page.on("request", look)
    try:
        yield page
        assert not problems, problems
    finally:
        context.close()


def wait_for_front(page) -> None:
    """Until the figure is drawn and a first trial is shown."""
    page.wait_for_selector("#front .scatterlayer .trace .points path, #front .gl-canvas")
    page.wait_for_function(
        "/^Trial \\d+/.test(document.querySelector('#trial-heading').innerText)"
    )
    page.wait_for_selector("#trial-channels .js-plotly-plot .main-svg")


def points_of(page) -> dict[int, tuple[float, float]]:
    """Trials that the figure of the front shows, scrolled to, with their places in the window."""
    page.evaluate(
        "document.querySelector('#front').scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    found = page.evaluate(
        """() => {
          const box = document.querySelector('#front .js-plotly-plot');
          const at = box.getBoundingClientRect(), full = box._fullLayout, found = {};
          for (const trace of box._fullData) {
            (trace.customdata || []).forEach((data, i) => {
              if (trace.name === 'chosen' || !Number.isInteger(data[0])) return;
              found[data[0]] = [
                at.left + full.xaxis._offset + full.xaxis.d2p(trace.x[i]),
                at.top + full.yaxis._offset + full.yaxis.d2p(trace.y[i]),
              ];
            });
          }
          return found;
        }"""
    )
    return {int(number): tuple(place) for number, place in found.items()}


def overflow_px(page) -> int:
    """By how much the page is wider than its window."""
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
