"""The page in a real browser: nothing goes wrong in it, nothing leaves it, and it fits a desktop and a telephone."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from agent_tunix import reports
from tests.test_report import made_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-features=NetworkTimeServiceQuerying",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--disable-extensions",
    "--allow-file-access-from-files",
    "--disable-web-security",
    "--enable-logging=stderr",
)
ATTACK = (
    """<img src="http://attacker.example/a.png" onerror="document.title='taken'"></script><script>document.title=1"""
)

# A page around the page: a frame may be as narrow as a telephone, and can be driven without changing what is tested.
AROUND = """<!doctype html><body style="margin:0"><iframe id="page" src="report.html" width="{width}" height="{height}"
style="border:0"></iframe><pre id="out"></pre><script>
const out = {{ errors: [] }};
const frame = document.getElementById("page");
frame.addEventListener("load", () => {{
  const view = frame.contentWindow, inside = frame.contentDocument;
  view.addEventListener("error", (event) => out.errors.push(event.message));
  inside.addEventListener("securitypolicyviolation", (event) => out.errors.push(event.violatedDirective));
  try {{ {script} }} catch (error) {{ out.errors.push(String(error)); }}
  out.title = inside.title;
  out.width = inside.documentElement.scrollWidth;
  document.getElementById("out").textContent = "RESULT" + JSON.stringify(out) + "END";
}});
</script>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run in which the model wrote an attack, and its page."""
    path = made_run(tmp_path_factory.mktemp("runs") / "run", steps=60, text=ATTACK)
    reports.write([path])
    return path


@pytest.fixture
def browse(folder, tmp_path):
    """Runs chromium on a page beside the report; returns what it printed."""

    def run(page: Path, *options: str, width: int, height: int = 900) -> subprocess.CompletedProcess:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [CHROMIUM, *QUIET, profile, f"--window-size={width},{height}", *options, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    return run


def drive(folder, browse, script, width=1280):
    """What a script found inside of the page, and no console may complain meanwhile."""
    around = folder / f"around{width}.html"
    around.write_text(AROUND.format(width=width, height=900, script=script), encoding="utf-8")
    done = browse(around, "--dump-dom", "--virtual-time-budget=4000", width=max(width, 600))
    found = re.search("RESULT(.*)END</pre>", done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    out = json.loads(unescape(found[1]))
    assert out["errors"] == []
    assert complaints(done.stderr) == []
    assert out["title"] == "run · reward report"
    return out


def complaints(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("width", [1280, 390, 360])
def test_the_page_has_no_error_and_no_horizontal_scroll(folder, browse, width):
    assert drive(folder, browse, "", width)["width"] <= width


def requests_of(browse, page, log):
    """What a page asked for over the network, and not the browser for its own updates."""
    printed = browse(page, "--dump-dom", f"--log-net-log={log}", width=1280).stdout
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    asked = [event["params"] for event in events if "initiator" in event.get("params", {})]
    return printed, {one["url"] for one in asked if one["initiator"] != "not an origin" and one["url"][:4] == "http"}


def test_no_request_leaves_the_page(folder, browse, tmp_path):
    printed, asked = requests_of(browse, folder / "report.html", tmp_path / "net.json")
    assert "attacker.example" in printed  # it is there, as text
    assert asked == set()


def test_a_page_that_did_ask_would_be_noticed(browse, tmp_path):
    leak = tmp_path / "leak.html"
    leak.write_text('<img src="http://attacker.example/a.png">', encoding="utf-8")
    assert requests_of(browse, leak, tmp_path / "net.json")[1] == {"http://attacker.example/a.png"}


@pytest.mark.parametrize(("width", "height"), [(1280, 2000), (600, 2000)])
def test_a_screenshot_shows_something(folder, browse, tmp_path, width, height):
    image = pytest.importorskip("PIL.Image")
    picture = tmp_path / "page.png"
    done = browse(folder / "report.html", f"--screenshot={picture}", width=width, height=height)
    assert complaints(done.stderr) == []
    pixels = np.asarray(image.open(picture).convert("RGB"))
    assert pixels.shape[:2] == (height, width)
    blue = (np.abs(pixels.astype(int) - [0x00, 0x72, 0xB2]) < 12).all(-1)
    assert blue.sum() > 500  # the curve of the reward
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200


def test_samples_are_filtered_by_kind_and_by_words(folder, browse):
    script = """
    const shown = () => [...inside.querySelectorAll(".sample")].filter((one) => !one.hidden).length;
    out.all = shown();
    const kind = inside.getElementById("kind"), words = inside.getElementById("words");
    kind.value = "best_wrong"; kind.dispatchEvent(new view.Event("change")); out.kind = shown();
    words.value = "nothing says this"; words.dispatchEvent(new view.Event("input")); out.words = shown();
    out.count = inside.getElementById("count").textContent;
    """
    out = drive(folder, browse, script)
    assert out["all"] > out["kind"] > out["words"] == 0
    assert out["count"] == f"0 of {out['all']} shown"


def test_arrow_keys_and_the_pointer_read_values_from_a_chart(folder, browse):
    script = """
    const figure = inside.getElementById("chart-reward"), readout = figure.querySelector(".readout");
    const press = (key) => figure.dispatchEvent(new view.KeyboardEvent("keydown", { key, bubbles: true }));
    figure.focus(); press("ArrowRight"); out.first = readout.textContent;
    press("ArrowRight"); out.second = readout.textContent;
    figure.dispatchEvent(new view.Event("blur")); out.left = readout.textContent;
    const picture = figure.querySelector("svg[data-box]"), box = picture.getBoundingClientRect();
    picture.dispatchEvent(new view.PointerEvent("pointermove", { clientX: box.right - 1, clientY: box.top + 9 }));
    out.end = readout.textContent;
    """
    out = drive(folder, browse, script)
    assert out["first"].startswith("step 1: reward 0.3")
    assert out["second"].startswith("step 2: reward 0.3")
    assert out["left"] == ""
    assert out["end"].startswith("step 60: reward 0.9")


def test_a_table_is_sorted_by_a_click_and_rows_are_downloaded(folder, browse):
    other = reports.write([folder, folder], folder / "both.html")
    script = """
    const heads = inside.querySelectorAll("#comparison th button"), column = (i) =>
      [...inside.querySelectorAll("#comparison tbody tr")].map((row) => row.cells[i].textContent);
    heads[0].click(); out.up = column(0); heads[0].click(); out.down = column(0);
    out.sorted = heads[0].closest("th").getAttribute("aria-sort");
    let saved = []; view.URL.createObjectURL = (blob) => { saved.push(blob); return "#"; };
    inside.querySelector("button[data-save=csv]").click();
    inside.querySelector("button[data-save=json]").click();
    out.sizes = saved.map((blob) => [blob.type, blob.size]);
    """
    around = folder / "around-both.html"
    text = AROUND.format(width=1280, height=900, script=script).replace("report.html", other.name)
    around.write_text(text, encoding="utf-8")
    done = browse(around, "--dump-dom", "--virtual-time-budget=4000", width=1280)
    out = json.loads(unescape(re.search("RESULT(.*)END</pre>", done.stdout, re.DOTALL)[1]))
    assert out["errors"] == []
    assert out["up"] == ["run", "run (2)"]
    assert out["down"] == ["run (2)", "run"]
    assert out["sorted"] == "descending"
    assert [kind for kind, _ in out["sizes"]] == ["text/csv", "application/json"]
    assert min(size for _, size in out["sizes"]) > 5000


def test_the_page_prints(folder, browse, tmp_path):
    paper = tmp_path / "page.pdf"
    done = browse(folder / "report.html", f"--print-to-pdf={paper}", width=1280)
    assert complaints(done.stderr) == []
    assert paper.read_bytes()[:5] == b"%PDF-"
    assert paper.stat().st_size > 50_000
