"""The pages in a real browser: nothing from outside, no error, readable in the dark and on a phone."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from saltext.openhim.plan import pages, paper, report, runbook, style
from saltext.openhim.plan.facts import Facts

from tests.unit.plan import made


@dataclass
class Seen:
    """What the browser made of a page: its elements, its console, the addresses that it asked."""

    dom: str
    console: list[str]
    asked: set[str]


Browse = Callable[..., Seen]


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """Open a page in headless Chromium: ``browse(html, *options)``."""
    program = paper.browser()
    assert program, "these tests need Debian's package chromium: .ci/packages installs it"

    def factory(html: str, *options: str) -> Seen:
        page, log = tmp_path / "page.html", tmp_path / "net.json"
        page.write_text(html, encoding="utf-8")
        command = [
            program, *paper.OPTIONS, f"--user-data-dir={tmp_path}/profile", f"--log-net-log={log}",
            "--enable-logging=stderr", "--dump-dom", *options, page.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return Seen(done.stdout, console, set(_addresses(json.loads(log.read_text()))))

    return factory


def _addresses(log: dict) -> Iterator[str]:
    """Every address that a page asked for; what the browser wants for itself has no origin."""
    for event in log["events"]:
        asked = event.get("params", {})
        if asked.get("initiator", "not an origin") != "not an origin":
            yield asked["url"]


@pytest.fixture(scope="module", params=["report", "report of nothing", "status page", "runbook"])
def page(request: pytest.FixtureRequest) -> str:
    if request.param == "report":
        return pages.report(report.build(made.well(records=made.years(2))))
    if request.param == "report of nothing":
        return pages.report(report.build(Facts(made.openhim(), made.NOW)))
    if request.param == "status page":
        return pages.report(report.build(_recovering()), 30)
    return pages.runbook(runbook.build(made.openhim(), made.NOW))


def _recovering() -> Facts:
    """In the midst of a recovery: much is open, and an action is overdue."""
    action = made.statement(corrective_action="a second pump", owner="Ben", due="2026-11-01")
    begun = made.epoch(completed_at=None, result=None, rejoins=[])
    return made.well(epochs=[begun], records=made.recorded([(made.NOW, action)]))


def test_it_renders_without_an_error_and_asks_nobody(browse: Browse, page: str) -> None:
    seen = browse(page)
    assert "example</h1>" in seen.dom
    assert seen.dom.count("<h2") >= 5
    assert seen.console == []
    assert seen.asked == set()


def test_what_is_open_and_when_it_is_stale_can_be_seen_without_a_script(browse: Browse) -> None:
    """As the browser shows it: the page's own policy forbids every script."""
    dom = browse(pages.report(report.build(_recovering()), 30)).dom
    assert '<meta http-equiv="refresh" content="30">' in dom
    assert "After 2026-11-22 12:01:30 UTC it is stale:" in dom
    assert "<strong>Open:</strong> root cause: open since 2026-10-01 12:10 UTC" in dom
    assert "overdue since 2026-11-01" in dom
    assert "<script" not in dom


@pytest.fixture
def outsider() -> Iterator[str]:
    """Somebody who would be asked for a picture."""

    class Nothing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/picture.png"
        server.shutdown()


def test_what_would_be_asked_and_said_is_noticed(browse: Browse, outsider: str) -> None:
    """Else the test above would prove nothing; and the page's own policy forbids it."""
    page = pages.report(report.build(Facts(made.openhim(), made.NOW)))
    picture = page.replace("<main", f'<img src="{outsider}" alt=""><main')
    refused = browse(picture)
    assert refused.asked == set()
    assert any("Content Security Policy" in line for line in refused.console)
    allowed = browse(_without_policy(picture))
    assert allowed.asked == {outsider}


def _without_policy(page: str) -> str:
    changed = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert changed != page
    return changed


#: Every text with its contrast against what is behind it, as the browser computed the colours.
MEASURE = """
<script>
const rgb = c => c.match(/[\\d.]+/g).map(Number);
const lum = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255;
  return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b };
const behind = e => { for (; e; e = e.parentElement) {
  const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) return c } return [255, 255, 255] };
const found = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const e = walk.currentNode.parentElement, s = getComputedStyle(e);
  if (!walk.currentNode.data.trim() || e.closest('script,title,desc')) continue;
  const front = rgb(e instanceof SVGElement ? s.fill : s.color), back = behind(e);
  const [a, b] = [lum(front), lum(back)].sort((x, y) => y - x);
  found.push([(a + 0.05) / (b + 0.05), walk.currentNode.data.trim().slice(0, 40)]);
}
const out = document.createElement('pre'); out.id = 'measured';
out.textContent = JSON.stringify({count: found.length, paper: getComputedStyle(document.body).backgroundColor,
  low: found.filter(f => f[0] < LEAST)});
document.body.append(out);
</script>
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(browse: Browse, page: str, scheme: str) -> None:
    script = MEASURE.replace("LEAST", str(style.TEXT))
    measured = _measured(browse, page, script, _scheme(scheme))
    palette = style.DARK if scheme == "dark" else style.LIGHT
    paper_colour = ", ".join(str(int(palette["paper"][i : i + 2], 16)) for i in (1, 3, 5))
    assert measured["paper"] == f"rgb({paper_colour})"
    assert measured["count"] > 80
    assert measured["low"] == []


def test_a_text_that_cannot_be_read_is_noticed(browse: Browse) -> None:
    page = pages.report(report.build(Facts(made.openhim(), made.NOW)))
    faint = page.replace("--quiet:#4d5761", "--quiet:#c0c0c0")
    script = MEASURE.replace("LEAST", str(style.TEXT))
    assert _measured(browse, faint, script, _scheme("light"))["low"]


def _scheme(name: str) -> str:
    return f"--blink-settings=preferredColorScheme={0 if name == 'dark' else 1}"


def _measured(browse: Browse, page: str, script: str, *options: str) -> dict:
    seen = browse(_without_policy(page).replace("</body>", f"{script}</body>"), *options)
    (found,) = re.findall(r'<pre id="measured">(.*?)</pre>', seen.dom, re.DOTALL)
    return json.loads(found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


PHONE = """\
<!DOCTYPE html><iframe style="width:360px;height:700px;border:0"></iframe><script>
const frame = document.querySelector('iframe');
frame.onload = () => { const d = frame.contentDocument.documentElement;
  const out = document.createElement('pre'); out.id = 'measured';
  out.textContent = JSON.stringify({width: d.scrollWidth, shown: d.clientWidth});
  document.body.append(out) };
frame.srcdoc = PAGE;
</script>"""


def test_it_fits_a_phone(browse: Browse, page: str) -> None:
    """Nothing but wide tables, which scroll by themselves, is broader than the screen."""
    quoted = json.dumps(_without_policy(page)).replace("</", "<\\/")
    seen = browse(PHONE.replace("PAGE", quoted), "--virtual-time-budget=5000")
    (found,) = re.findall(r'<pre id="measured">(.*?)</pre>', seen.dom)
    measured = json.loads(found)
    assert 320 < measured["shown"] <= 360
    assert measured["width"] <= measured["shown"]


def test_it_becomes_a_pdf(tmp_path: Path, page: str) -> None:
    made_pdf = Path(paper.printed(page, tmp_path / "page.pdf"))
    assert made_pdf.read_bytes().startswith(b"%PDF")
    assert made_pdf.stat().st_size > 10_000
    assert made_pdf.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["page.pdf"]
