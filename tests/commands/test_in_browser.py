"""Report pages in headless Chromium: they load without errors, and their pictures and tables are there."""

import base64
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from surmin.cli import main
from surmin.methods.registry import METHODS
from tests.plots.cases import picture_size

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason=f"no browser on PATH, none of {', '.join(NAMES)}: apt-get install chromium"
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1000,800",
    "--enable-logging=stderr", "--v=0", "--dump-dom",
)  # fmt: skip
SECONDS = 60
PROBE = """<script>
const errors = [];
addEventListener("error", event => errors.push(event.message || event.target.outerHTML.slice(0, 80)), true);
addEventListener("load", () => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const isWhole = image => {
    try {
      canvas.clearRect(0, 0, 1, 1);
      canvas.drawImage(image, 0, image.naturalHeight - 1, 1, 1, 0, 0, 1, 1);
      return canvas.getImageData(0, 0, 1, 1).data[3] === 255;
    } catch (error) {
      return false;
    }
  };
  const seen = {
    errors: errors,
    pictures: Array.from(document.images, image => ({
      size: [image.naturalWidth, image.naturalHeight],
      shown: [image.clientWidth, image.clientHeight],
      whole: isWhole(image),
    })),
    tables: Array.from(document.querySelectorAll("table"), table =>
      Array.from(table.rows, row => Array.from(row.cells, cell => cell.innerText))),
    sideways: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  };
  const told = document.createElement("pre");
  told.id = "seen";
  told.textContent = JSON.stringify(seen);
  document.body.replaceChildren(told);
});
</script>"""
"""Goes first into the page's head; when all is loaded, what there is to see takes the place of the page's body."""


@dataclass(frozen=True)
class Picture:
    """As decoded; `whole` where its last row is painted too."""

    size: tuple[int, int]
    shown: tuple[int, int]
    whole: bool


@dataclass(frozen=True)
class Seen:
    """What a browser made of a page, and what it wrote to its console."""

    errors: Sequence[str]
    console: Sequence[str]
    pictures: Sequence[Picture]
    tables: Sequence[Sequence[Sequence[str]]]
    sideways: int


def look_at(page: str, folder: Path, seconds: float = SECONDS) -> Seen:
    """Load a copy of a page that tells what became of it."""
    folder.mkdir()
    assert page.count("<head>") == 1
    (folder / "page.html").write_text(page.replace("<head>", f"<head>{PROBE}"), encoding="utf-8")
    written, log = folder / "dom", folder / "log"
    words = [str(BROWSER), *FLAGS, f"--user-data-dir={folder / 'profile'}", (folder / "page.html").as_uri()]
    with written.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(
            words, stdout=out, stderr=err, env={**os.environ, "HOME": str(folder)}, start_new_session=True
        )
        try:
            assert process.wait(seconds) == 0, log.read_text(encoding="utf-8", errors="replace")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    found = re.search(r'<pre id="seen">(.*?)</pre>', written.read_text(encoding="utf-8"), re.DOTALL)
    assert found, log.read_text(encoding="utf-8", errors="replace")
    seen = json.loads(unescape(found[1]))
    pictures = [Picture(tuple(each["size"]), tuple(each["shown"]), each["whole"]) for each in seen["pictures"]]
    console = re.findall(r":CONSOLE[:(]\d+\)?\] (.*)", log.read_text(encoding="utf-8", errors="replace"))
    return Seen(seen["errors"], console, pictures, seen["tables"], seen["sideways"])


def check_readable(page: Path, folder: Path) -> Seen:
    """Look at a report page; the files beside it are its pictures."""
    seen = look_at(page.read_text(encoding="utf-8"), folder)
    assert (seen.errors, seen.console) == ([], [])
    drawn = sorted(map(picture_size, page.parent.glob("*.png")))
    assert drawn and sorted(picture.size for picture in seen.pictures) == drawn
    assert all(picture.whole and min(picture.shown) > 200 for picture in seen.pictures)
    assert seen.sideways == 0
    return seen


def page_of(body: str) -> str:
    return f'<!DOCTYPE html>\n<html lang="en"><head><title>A page</title></head><body>{body}</body></html>'


def png(width: int, height: int, share: float = 1.0) -> str:
    """An image of noise, of whose file only a share is there."""
    file = io.BytesIO()
    Image.effect_noise((width, height), 90).save(file, "png")
    data = file.getvalue()[: int(share * file.tell())]
    return f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}">'


@needs_browser
@pytest.mark.slow
def test_the_page_of_all_methods(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    words = ["--data", "digits", "--train-samples", "40", "--layers", "3", "--width", "6", "--rounds", "1"]
    assert main(["compare", "--methods", "all", *words, "--out", str(folder)]) == 0
    summary, runs, settings = check_readable(folder / "report.html", tmp_path / "seen").tables
    assert summary[0][:4] == ["method", "outcome", "rounds", "training loss"]
    for table in (summary, runs):
        assert [row[0].split(",")[0] for row in table[1:]] == list(METHODS)
        assert all(math.isfinite(float(row[table[0].index("training loss")])) for row in table[1:])
    assert ["methods", "all"] in settings


@needs_browser
@pytest.mark.slow
def test_the_pages_of_the_papers_grid(tmp_path: Path) -> None:
    folder = tmp_path / "grid"
    words = [
        "paper", "--train-samples", "40", "--width", "6", "--depths", "2", "--inner-steps", "1", "--rounds", "2",
        "--seeds", "1", "--methods", "sm,gd-armijo,adam",
    ]  # fmt: skip
    assert main([*words, "--out", str(folder)]) == 0
    for name in ("report", "layers2"):
        *_, losses, cells = check_readable(folder / f"{name}.html", tmp_path / name).tables
        assert [row[0] for row in losses] == [row[0] for row in cells] == ["method", "sm", "gd-armijo", "adam"]


@needs_browser
def test_a_script_that_fails_is_seen(tmp_path: Path) -> None:
    seen = look_at(page_of("<script>console.log('told'); nothing.there()</script>"), tmp_path / "seen")
    assert seen.errors == ["Uncaught ReferenceError: nothing is not defined"]
    assert [line.split(", source")[0] for line in seen.console] == ['"told"', f'"{seen.errors[0]}"']


@needs_browser
def test_pictures_that_are_broken_and_a_page_too_wide_are_seen(tmp_path: Path) -> None:
    images = [png(40, 30), png(40, 30, share=0.5), '<img src="data:image/png;base64,AAAA">', '<img src="gone.png">']
    seen = look_at(page_of("".join(images) + '<div style="width: 3000px">wide</div>'), tmp_path / "seen")
    assert [picture.size for picture in seen.pictures] == [(40, 30), (40, 30), (0, 0), (0, 0)]
    assert [picture.whole for picture in seen.pictures] == [True, False, False, False]
    assert seen.errors == images[2:]
    assert seen.sideways > 1900


@needs_browser
def test_a_page_that_never_loads_ends_the_browser(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        look_at(page_of("<script>while (true);</script>"), tmp_path / "seen", seconds=2)
