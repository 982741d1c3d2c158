"""The report's page in a browser: it draws, finds and filters, and no text of a row runs."""

import json
import random
import sys
from pathlib import Path

import pytest

from stoker.engine.gauges import Gauges
from stoker.job.expect import Accuracy, Expect
from stoker.job.report import Report
from stoker.report.files import write_report
from stoker.report.recorder import Recorder

sys.path.insert(0, str(Path(__file__).parent))
from browser import Browser, find_chromium

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: .ci/browser installs it, STOKER_CHROMIUM names it"
)
NASTY = [
    "<script>window.ran = 1</script>",
    "</script><script>window.ran = 2</script>",
    "<img src=x onerror='window.ran = 3'>",
    "<!--<script>",
    "\u2028window.ran = 4\u2029",
    "{{SCRIPT}} {{DATA}} \\1 \\g<0>",
    "\ud800 half a character \x00\x1b",
    "<svg onload='window.ran = 5'><a href='javascript:window.ran = 6'>x</a></svg>",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    one = Browser(CHROMIUM, tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


def recorded(rows, prompt, samples=100, statuses=("done",)):
    """A run as it would be recorded, with `prompt` giving the text of each row."""
    report = Report(rows, accuracy=Accuracy(Expect("expected", "exact", "skill")))
    recorder = Recorder(report, {"model": "m", "note": NASTY[1]}, seed=1)
    draw = random.Random(1)
    for number in range(1, rows + 1):
        tokens = draw.randint(1, 500)
        fields = {"prompt": prompt(number), "expected": f"answer {number % 50}", "skill": NASTY[0]}
        result = {
            "row": number,
            "status": statuses[number % len(statuses)],
            "text": f"answer {number} " + prompt(number),
            "prompt_tokens": 1000 - tokens,
            "cached_tokens": 0,
            "output_tokens": tokens,
            "queued_seconds": 0.1,
            "running_seconds": draw.random(),
        }
        report.add(fields, result)
    for at in range(1, samples + 1):
        gauges = Gauges(10 * at, 900 * at, 300 * at, 5, 0, 20, 30, 40, 100)
        recorder.series.add(float(at), rows * at // samples, gauges)
    return recorder


def test_it_draws_everything(browser, tmp_path):
    figures = recorded(300, str, 100, ("done", "length")).figures()
    browser.open(write_report(tmp_path / "out.jsonl", figures))
    assert browser.problems() == []
    charts = json.loads(
        browser.run(
            "JSON.stringify([...document.querySelectorAll('.chart')].map(one => [one.querySelector("
            "'figcaption').textContent, Number(one.dataset.points), one.querySelectorAll("
            "'path.curve').length, one.querySelectorAll('rect.bar').length,"
            " one.querySelectorAll('text').length]))"
        )
    )
    bars = [len(figures["lengths"][name]["counts"]) for name in ("prompt", "output")]
    assert [one[:4] for one in charts] == [
        ["Tokens per second", 100, 2, 0],
        ["Tokens in a step", 100, 2, 0],
        ["Sequences", 100, 2, 0],
        ["Cache in use", 100, 1, 0],
        ["Rows per second", 100, 1, 0],
        ["Prompt tokens", bars[0], 0, bars[0]],
        ["Output tokens", bars[1], 0, bars[1]],
    ]
    assert all(one[4] >= 6 for one in charts), "axes have labels"
    # the decode curve is flat at 300 a second: every height in its path is that of the axis' 300
    path = browser.run("document.querySelector('path.curve.two').getAttribute('d')")
    heights = {piece.split(",")[1] for piece in path[1:].replace("M", "L").split("L")}
    assert len(heights) == 1
    text = browser.run("document.body.innerText")
    for wanted in ("300", "output tokens per second", "length", "Slowest rows", "Settings"):
        assert wanted in text
    assert browser.run("document.querySelectorAll('#slowest tbody tr').length") == 20
    assert browser.run("document.querySelectorAll('#statuses tbody tr').length") == 2


def test_a_pointer_reads_the_charts(browser, tmp_path):
    browser.open(write_report(tmp_path / "out.jsonl", recorded(30, str).figures()))
    tip = browser.run(
        "(() => { const svg = document.querySelector('.chart svg');"
        "const box = svg.getBoundingClientRect();"
        "svg.dispatchEvent(new PointerEvent('pointermove',"
        "{clientX: box.left + box.width / 2, clientY: box.top + 50}));"
        "return document.querySelector('.chart .tip').textContent; })()"
    )
    assert "prefill 900 · decode 300" in tip


def find(browser, text="", status="", agrees=""):
    browser.run(
        f"document.getElementById('search').value = {json.dumps(text)};"
        f"document.getElementById('status').value = {json.dumps(status)};"
        f"document.getElementById('agrees').value = {json.dumps(agrees)};"
        "document.getElementById('search').dispatchEvent(new Event('input'));"
    )
    shown = browser.run("[...document.querySelectorAll('.row b')].map(one => one.textContent)")
    return browser.run("document.getElementById('count').textContent"), shown


def test_search_and_filter(browser, tmp_path):
    statuses = ("done", "length", "failed")
    recorder = recorded(90, lambda number: f"Prompt <{number}>", statuses=statuses)
    browser.open(write_report(tmp_path / "out.jsonl", recorder.figures()))
    count, shown = find(browser)
    assert (count, len(shown)) == ("90 of 90 rows", 40)
    browser.run("document.getElementById('more').click()")
    browser.run("document.getElementById('more').click()")
    assert browser.run("document.querySelectorAll('.row').length") == 90
    assert browser.run("document.getElementById('more').hidden") is True
    assert find(browser, "PROMPT <77>") == ("1 of 90 rows", ["row 77"])
    assert find(browser, "no such text") == ("0 of 90 rows", [])
    assert find(browser, status="failed")[0] == "30 of 90 rows"
    assert find(browser, "<7", "length")[1] == [f"row {n}" for n in (7, 70, 73, 76, 79)]
    assert find(browser, agrees="yes")[0] == "0 of 90 rows"
    assert find(browser, agrees="no")[0] == "90 of 90 rows"
    assert browser.problems() == []


def test_texts_of_rows_do_not_run(browser, tmp_path):
    recorder = recorded(len(NASTY), lambda number: NASTY[number - 1], statuses=(NASTY[2], "done"))
    output = tmp_path / "<img src=x onerror=window.ran=7>.jsonl"
    browser.open(write_report(output, recorder.figures()))
    assert browser.run("window.ran") is None
    assert browser.problems() == []
    shown = browser.run(
        "[...document.querySelectorAll('.row pre:first-of-type')].map(one => one.textContent)"
    )
    assert [text for text in shown if "half" not in text] == [
        one for one in NASTY if "half" not in one
    ]
    assert browser.run("document.querySelectorAll('main img, main svg a, main script').length") == 0
    assert browser.run("document.title") == f"{output.name} · Stoker"
    # and were markup to slip in, the page's policy would not let it run
    browser.run(
        "document.body.insertAdjacentHTML('beforeend', \"<img src='x:' onerror='window.ran=8'>\")"
    )
    browser.run(
        "document.body.append(Object.assign(document.createElement('script'),"
        " {text: 'window.ran=9'}))"
    )
    assert browser.run("window.ran") is None


def test_a_large_job_stays_small_and_opens_fast(browser, tmp_path):
    words = "lorem ipsum dolor sit amet <b>&amp; consectetur " * 40
    statuses = ("done",) * 7 + ("length", "failed", "too_long")
    recorder = recorded(100_000, lambda number: f"{number} {words}", 2000, statuses)
    page = write_report(tmp_path / "out.jsonl", recorder.figures())
    assert page.stat().st_size < 5_000_000
    seconds = browser.open(page)
    assert seconds < 2
    assert browser.problems() == []
    assert "100,000" in browser.run("document.getElementById('tiles').innerText")
    assert find(browser, status="too_long")[0] == "400 of 1,600 rows"


def test_a_run_without_anything(browser, tmp_path):
    report = Report(0)
    browser.open(write_report(tmp_path / "out.jsonl", Recorder(report, {}).figures()))
    assert browser.problems() == []
    assert "no figures over time" in browser.run("document.body.innerText")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_labels_can_be_read_in_light_and_dark(browser, tmp_path, scheme):
    """The contrast of text and marks with what is behind them (WCAG 2: 4.5 and 3)."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.call("Emulation.setEmulatedMedia", features=[feature])
    browser.open(write_report(tmp_path / "out.jsonl", recorded(9, str).figures()))
    colours = json.loads(
        browser.run(
            "JSON.stringify(Object.fromEntries(['page', 'card', 'ink', 'quiet', 'one', 'two',"
            "'good', 'bad'].map(name => [name, getComputedStyle(document.documentElement)"
            ".getPropertyValue('--' + name).trim()])))"
        )
    )
    for behind in ("page", "card"):
        for name, least in {
            "ink": 7,
            "quiet": 4.5,
            "good": 4.5,
            "bad": 4.5,
            "one": 3,
            "two": 3,
        }.items():
            assert contrast(colours[name], colours[behind]) >= least, (name, behind)
    dark = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(21, 21, 20)") == (scheme == "dark")
    browser.call("Emulation.setEmulatedMedia", features=[])


def contrast(a, b):
    bright, dim = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
