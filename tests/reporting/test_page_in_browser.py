"""The report's page in a real browser: it sorts, fits a phone, and asks nothing of the network."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from fairseq_ffn.cli.main import main
from reporting.runs import make_run

BROWSER = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium; apt-get install chromium")

#: clicks a heading, and writes what the page then looks like into its body
PROBE = """<script>
var button = document.querySelectorAll("thead button")[%d];
%s
document.body.setAttribute("data-order", Array.prototype.map.call(
  document.querySelectorAll("tbody th"), function (cell) { return cell.textContent; }).join(","));
document.body.setAttribute("data-overflow",
  document.documentElement.scrollWidth - document.documentElement.clientWidth);
document.body.setAttribute("data-background", getComputedStyle(document.body).backgroundColor);
document.body.setAttribute("data-width", window.innerWidth);
document.body.setAttribute("data-columns", new Set(Array.prototype.map.call(
  document.querySelector(".systems").children,
  function (entry) { return entry.getBoundingClientRect().left; })).size);
document.body.setAttribute("data-marks", getComputedStyle(
  document.querySelector("mark")).textDecorationLine);
document.body.setAttribute("data-requests", performance.getEntriesByType("resource").length);
</script></body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("browser")
    runs = [
        make_run(folder / "baseline", 1, speed=100.0),
        make_run(folder / "one_wide", 2, speed=124.0),
        make_run(folder / "unmeasured_with_a_rather_long_name", 9),
    ]
    output = folder / "report"
    assert main(["report", *map(str, runs), "--output", str(output)]) == 0
    return output / "report.html"


def browse(page: Path, tmp_path: Path, column: int, clicks: int, *options: str) -> dict:
    probe = tmp_path / "probe.html"
    text = page.read_text(encoding="utf-8")
    probe.write_text(
        text.replace("</body>", PROBE % (column, "button.click();" * clicks)), encoding="utf-8"
    )
    done = subprocess.run(
        [
            *(BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000"),
            *options,
            probe.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    body = re.search(r"<body[^>]*>", done.stdout)
    assert body, done.stderr[-2000:]
    return dict(re.findall(r'data-(\w+)="([^"]*)"', body.group(0)))


def test_headings_sort_and_unknown_values_stay_last(page, tmp_path):
    unsorted = browse(page, tmp_path, 0, 0)["order"].split(",")
    assert unsorted == ["baseline", "one_wide", "unmeasured_with_a_rather_long_name"]
    speed = 3  # run, BLEU, chrF, tokens/s
    down = browse(page, tmp_path, speed, 1)["order"].split(",")
    assert down == ["one_wide", "baseline", "unmeasured_with_a_rather_long_name"]
    up = browse(page, tmp_path, speed, 2)["order"].split(",")
    assert up == ["baseline", "one_wide", "unmeasured_with_a_rather_long_name"]


def test_it_fits_a_phone_and_loads_nothing(page, tmp_path):
    found = browse(page, tmp_path, 0, 0, "--window-size=390,800")
    assert int(found["width"]) <= 500  # Chromium's least
    assert int(found["overflow"]) <= 0, "the page scrolls sideways"
    assert found["requests"] == "0"


def test_translations_are_side_by_side_where_there_is_room(page, tmp_path):
    assert browse(page, tmp_path, 0, 0, "--window-size=1200,800")["columns"] == "3"
    phone = browse(page, tmp_path, 0, 0, "--window-size=390,800")
    assert phone["columns"] == "1" and phone["marks"] == "underline"


def test_light_and_dark(page, tmp_path):
    light = browse(page, tmp_path, 0, 0)["background"]
    dark = browse(page, tmp_path, 0, 0, "--blink-settings=preferredColorScheme=0")["background"]
    assert light != dark


def test_a_screenshot_is_not_blank(page, tmp_path):
    picture = tmp_path / "page.png"
    subprocess.run(
        [
            *(BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,1600"),
            f"--screenshot={picture}",
            page.as_uri(),
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    data = picture.read_bytes()
    assert struct.unpack(">II", data[16:24]) == (1200, 1600)
    assert len(data) > 30_000  # an empty page is a few kilobytes
