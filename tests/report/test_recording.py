"""What is recorded of a run: bounded, fair, and the same with the same seed."""

import json
import random

import pytest

from stoker.engine.gauges import Gauges, ended, summed
from stoker.errors import JobError
from stoker.job.expect import Accuracy, Expect
from stoker.job.report import Report
from stoker.report.files import CUTS, LARGEST, fitting, read_figures, safe_json, write_report
from stoker.report.lengths import BARS, Lengths
from stoker.report.progress import Pace
from stoker.report.recorder import Recorder
from stoker.report.sample import SLOWEST, TEXT_LIMIT, Sample
from stoker.report.series import MOST, Series


def result(number, status="done", **more):
    counts = {"prompt_tokens": 5, "cached_tokens": 1, "output_tokens": 3}
    times = {"queued_seconds": 0.5, "running_seconds": 1.0}
    return {"row": number, "status": status, "text": f"answer {number}", **counts, **times, **more}


def test_series_stay_bounded_and_lose_nothing():
    series = Series(most=8, shortest=1.0)
    series.begin(Gauges(decode_tokens=100), rows=7)
    at, rows, tokens = 0.0, 7, 100
    draw = random.Random(1)
    taken = 0
    while taken < 60:
        at += draw.choice([0.3, 0.7, 1.1])
        rows += 2
        tokens += 5
        if series.due(at):
            series.add(at, rows, Gauges(decode_tokens=tokens, running=4, num_blocks=10))
            taken += 1
        assert len(series.samples) < 8
    columns = series.as_json()
    assert columns["at"][-1] == pytest.approx(at, abs=0.01)
    assert sum(columns["rows"]) == rows - 7
    assert sum(columns["decode_tokens"]) == tokens - 100
    assert columns["running"] == [4.0] * len(columns["at"])
    assert len({len(values) for values in columns.values()}) == 1


def test_levels_are_joined_by_time():
    series = Series(most=2, shortest=1.0)
    series.add(1.0, 0, Gauges(running=10))
    series.add(4.0, 0, Gauges(running=2))
    assert series.samples[0]["running"] == (10 * 1 + 2 * 3) / 4


def test_lengths_add_up():
    lengths = Lengths()
    draw = random.Random(2)
    values = sorted(draw.randint(3, 9000) for _ in range(2000))
    for value in values:
        lengths.add(value)
    found = lengths.as_json()
    assert sum(found["counts"]) == found["rows"] == 2000
    assert len(found["counts"]) <= BARS + 1
    assert found["p50"] == values[999]
    assert found["p99"] == values[1979]
    assert found["start"] <= 3
    assert found["start"] + found["width"] * len(found["counts"]) > found["most"] == values[-1]
    one = Lengths()
    one.add(4)
    assert one.as_json()["counts"] == [1]
    assert Lengths().as_json() == {"rows": 0, "counts": []}


def test_the_sample_is_seeded_fair_and_keeps_rare_statuses():
    def sampled(seed):
        sample = Sample(seed, per_status=50)
        for number in range(1, 5001):
            status = "failed" if number % 1000 == 0 else "done"
            sample.add({"prompt": str(number)}, result(number, status), None)
        return [entry["row"] for entry in sample.rows]

    rows = sampled(3)
    assert rows == sampled(3) != sampled(4)
    assert [row for row in rows if row % 1000 == 0] == [1000, 2000, 3000, 4000, 5000]
    assert len(rows) == 55
    often = [row for seed in range(40) for row in sampled(seed) if row % 1000]
    assert abs(sum(often) / len(often) - 2500) < 100


def test_the_slowest_rows():
    sample = Sample(per_status=1)
    for number in range(1, 301):
        sample.add({"prompt": "p"}, result(number, running_seconds=float(number // 2)), None)
    slowest = [(entry["running_seconds"], entry["row"]) for entry in sample.slowest]
    assert slowest[:3] == [(150.0, 300), (149.0, 298), (149.0, 299)]
    assert len(slowest) == SLOWEST


def test_long_texts_are_cut_and_say_so():
    sample = Sample()
    sample.add({"messages": [{"role": "user", "content": "x" * 9000}]}, result(1), None)
    entry = sample.rows[0]
    assert entry["prompt"].startswith("user: xxx")
    assert len(entry["prompt"]) == TEXT_LIMIT
    assert entry["cut"] == {"prompt": 9006 - TEXT_LIMIT}


def recorded(rows, text, settings=None):
    report = Report(rows, accuracy=Accuracy(Expect("expected", "exact", "skill")))
    recorder = Recorder(report, settings or {"model": "m"}, seed=1)
    for number in range(1, rows + 1):
        fields = {"prompt": text, "expected": "answer 1", "skill": "s"}
        report.add(fields, result(number, ("done", "length", "failed")[number % 3]))
    return recorder


def test_figures_fit(tmp_path):
    recorder = recorded(3000, "é<" * 4000)
    for at in range(5 * MOST):
        recorder.series.add(float(at + 1), at, Gauges())
    data = fitting(recorder.figures())
    assert len(data.encode()) <= LARGEST
    figures = json.loads(data)
    assert figures["rows"]["statuses"] == {"done": 1000, "failed": 1000, "length": 1000}
    assert {len(row["prompt"]) for row in figures["sample"]} <= set(CUTS)
    assert all(len(r["prompt"]) + r["cut"]["prompt"] == 8000 for r in figures["sample"])
    huge = recorder.figures() | {"settings": {"x": "y" * (LARGEST - 1000)}}
    assert len(json.loads(fitting(huge))["sample"]) < 10


def test_json_that_is_safe_in_a_script():
    nasty = "</script><!-- <script> & \u2028\u2029 \ud800 \x00 ]]>"
    text = safe_json({nasty: nasty})
    assert not set("<>&\u2028\u2029\ud800\x00") & set(text)
    assert json.loads(text) == {nasty: nasty}
    text.encode()


def test_written_and_read_again(tmp_path):
    output = tmp_path / "out.jsonl"
    assert read_figures(output) is None
    figures = recorded(4, "p").figures()
    page = write_report(output, figures)
    assert page == tmp_path / "out.jsonl.report.html"
    assert read_figures(output) == json.loads(json.dumps(figures))
    assert figures["accuracy"]["groups"] == {"s": {"compared": 4, "correct": 1}}
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "out.jsonl.report.html",
        "out.jsonl.report.json",
    ]
    (tmp_path / "out.jsonl.report.json").write_text("{torn")
    assert read_figures(output) is None
    with pytest.raises(JobError, match="--no-report"):
        write_report(tmp_path / "none" / "out.jsonl", figures)


def test_eta_follows_the_lengths_seen():
    report = Report(100)
    pace = Pace(report, Gauges())
    assert pace.look(1.0, Gauges(running=4)).eta is None
    for number in range(1, 11):
        report.add({}, result(number, output_tokens=20))
    gauges = Gauges(
        steps=100,
        prefill_tokens=500,
        decode_tokens=400,
        running=10,
        waiting=80,
        expected_left=100,
        longest_left=15,
        held_blocks=1,
        num_blocks=4,
    )
    now = pace.look(10.0, gauges)
    assert now.decode_rate == 40.0
    assert now.prefill_rate == 50.0
    assert now.cache_use == 0.25
    assert now.eta == (100 + 80 * 20) / 40  # 80 rows have not begun, 20 tokens each
    # the last few: as long as the longest takes, a token a step
    for number in range(11, 100):
        report.add({}, result(number, output_tokens=20))
    last = Gauges(steps=200, decode_tokens=4000, running=1, expected_left=15, longest_left=15)
    assert pace.look(20.0, last).eta == pytest.approx(15 * 19 / 200)


def test_eta_by_rows_where_nothing_is_decoded():
    report = Report(100)
    pace = Pace(report, Gauges())
    for number in range(1, 26):
        report.add({}, result(number))
    now = pace.look(5.0, Gauges(prefill_tokens=500, saved_tokens=25))
    assert now.eta == 15.0
    assert (now.running, now.decode_rate, now.prefill_rate, now.saved_tokens) == (0, 0, 100, 25)
    assert json.dumps(now.as_json())


def test_gauges_of_several_engines_are_one():
    first = Gauges(100, 50, 400, 7, 1, 3, 9, 10, 40, 60, 25)
    second = Gauges(300, 70, 600, 5, 0, 1, 0, 30, 40, 10, 10)
    both = summed([first, second])
    assert both == Gauges(400, 120, 1000, 12, 1, 4, 9, 40, 80, 70, 25, engines=2)
    assert both.cache_use == 0.5
    # one has died: what it did stays, and it holds nothing
    left = summed([ended(first), second])
    assert (left.decode_tokens, left.running, left.longest_left, left.engines) == (1000, 1, 10, 1)
    assert left.num_blocks == 40
    # a step of each of two engines takes as long as one step of one
    report = Report(2)
    pace = Pace(report, summed([Gauges(), Gauges()]))
    report.add({}, result(1, output_tokens=9))
    last = Gauges(steps=100, decode_tokens=9, longest_left=20, expected_left=20, running=1)
    now = pace.look(10.0, summed([last, Gauges(steps=100, decode_tokens=9000)]))
    assert now.eta == pytest.approx(20 * 10 / 100)
