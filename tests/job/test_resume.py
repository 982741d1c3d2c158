"""What the same job does again, what it refuses to mix, and the options of its output."""

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stoker import SamplingParams
from stoker.errors import InvalidRequestError, JobError
from stoker.job.job import JobSettings, prepare_job, run_job

PARAMS = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)


@pytest.fixture
def job(tmp_path, text_model):
    """Settings of a job over twelve rows, one of them bad and two the same."""
    rows = [json.dumps({"prompt": f"hello {number}", "n": number}) for number in range(12)]
    rows[3], rows[5] = "{bad", rows[4]
    (tmp_path / "in.jsonl").write_text("\n".join(rows) + "\n")
    return JobSettings(
        tmp_path / "in.jsonl", tmp_path / "out.jsonl", PARAMS, seed=1, raw=True, model=text_model
    )


class Counting:
    """An LLM whose requests are counted."""

    def __init__(self, llm):
        self.llm, self.asked = llm, []

    def __getattr__(self, name):
        return self if name == "engine" else getattr(self.llm, name, None) or self.own(name)

    def own(self, name):
        return getattr(self.llm.engine, name)

    def add(self, request):
        self.asked.append(int(request.id.removeprefix("row-")))
        self.llm.engine.add(request)


def run(llm, settings):
    """Run the job; gives its report and the rows that were computed."""
    counting = Counting(llm)
    report = prepare_job(settings)
    if not report.complete:
        run_job(counting, settings, report, lambda report: None)
    return report, sorted(counting.asked)


def lines(path):
    return sorted(path.read_text().splitlines())


def rows_of(path, key="result"):
    return {row[key]["row"]: row for row in map(json.loads, path.read_text().splitlines())}


def cut_to(path, count):
    kept = path.read_text().splitlines(keepends=True)[:count]
    path.write_text("".join(kept))
    return [json.loads(line)["result"]["row"] for line in kept]


def test_the_same_job_goes_on_where_it_was(llm, job):
    _, asked = run(llm, job)
    assert asked == [1, 2, 3, 5, 7, 8, 9, 10, 11, 12]  # 4 is bad, 6 the same as 5
    whole = lines(job.output)
    there = cut_to(job.output, 5)
    report, asked = run(llm, job)
    assert (report.resumed_rows, report.rows, report.failed_rows) == (5, 12, 1)
    assert not set(asked) & set(there)
    assert lines(job.output) == whole
    report, asked = run(llm, job)
    assert report.complete
    assert asked == []
    assert report.rows == 12
    assert report.failed_rows == 1
    assert lines(job.output) == whole


def test_restart_starts_over(llm, job):
    run(llm, job)
    whole = lines(job.output)
    report, asked = run(llm, dataclasses.replace(job, restart=True))
    assert len(asked) == 10
    assert report.resumed_rows == 0
    assert lines(job.output) == whole


def test_other_settings_are_not_mixed(llm, job):
    run(llm, job)
    params = SamplingParams(temperature=0.5, max_tokens=7, ignore_eos=True)
    other = dataclasses.replace(job, params=params, seed=2)
    message = "temperature was 0 and is 0.5, max_tokens was 6 and is 7, seed was 1 and is 2"
    with pytest.raises(JobError, match="was begun with other settings") as refused:
        prepare_job(other)
    assert all(part in str(refused.value) for part in message.split(", "))
    assert "ignore_eos" not in str(refused.value)
    report = prepare_job(dataclasses.replace(other, restart=True))
    run_job(llm, dataclasses.replace(other, restart=True), report, lambda report: None)
    assert prepare_job(other).complete


def test_devices_and_dtypes_are_not_mixed(llm, job):
    run(llm, job)
    cut_to(job.output, 5)
    with pytest.raises(JobError, match='device was "cpu" and is "cuda"'):
        prepare_job(dataclasses.replace(job, device="cuda:1"))
    with pytest.raises(JobError, match='kv_dtype was "auto" and is "fp8"'):
        prepare_job(dataclasses.replace(job, kv_dtype="fp8"))


def test_dtype_int8_is_quantization_int8(job):
    """job.json holds the short form, as it did before quantization was a setting."""
    plain, short = job.described(), dataclasses.replace(job, dtype="int8").described()
    assert (plain["dtype"], short["dtype"]) == ("auto", "int8")
    assert "quantization" not in plain.keys() | short.keys()
    for dtype in ("auto", "float32", "int8"):
        spelt = dataclasses.replace(job, dtype=dtype, quantization="int8")
        assert spelt.described() == short


def test_a_job_begun_before_plans_were_stored_goes_on(llm, tmp_path, text_model):
    """job-0.1.json was written before `quantization`, and before job.json held a plan."""
    rows = [json.dumps({"prompt": f"hello {number}", "n": number}) for number in range(6)]
    (tmp_path / "in.jsonl").write_text("\n".join(rows) + "\n")
    job = JobSettings(
        tmp_path / "in.jsonl",
        tmp_path / "out.jsonl",
        PARAMS,
        seed=1,
        raw=True,
        model=text_model,
        dtype="float32",
    )
    run(llm, job)
    whole = job.output.read_text()
    cut_to(job.output, 2)
    stored = tmp_path / "out.jsonl.stoker" / "job.json"
    before = Path(__file__).with_name("job-0.1.json").read_text()
    stored.write_text(before)
    _, asked = run(llm, job)
    assert asked == [3, 4, 5, 6]
    assert job.output.read_text() == whole
    told = json.loads(stored.read_text())
    assert told["plan"] == llm.plan.described()
    assert (
        told["settings"]
        == json.loads(Path(__file__).with_name("job-0.1.json").read_text())["settings"]
    )


def test_settings_that_change_no_result_may_differ(llm, job):
    run(llm, job)
    cut_to(job.output, 5)
    run(llm, dataclasses.replace(job, dedup=False))
    assert len(rows_of(job.output)) == 12


def test_a_changed_input_is_refused(llm, job):
    run(llm, job)
    job.input.write_text(job.input.read_text() + '{"prompt": "one more"}\n')
    with pytest.raises(JobError, match=r"begun with another content of .*in.jsonl"):
        prepare_job(job)


def test_a_changed_model_is_refused(llm, job, tmp_path, text_model):
    run(llm, job)
    copy = tmp_path / "model"
    shutil.copytree(text_model, copy)
    moved = dataclasses.replace(job, model=str(copy))
    assert prepare_job(moved).complete
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[len(weights) // 2] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(JobError, match="begun with another model"):
        prepare_job(moved)


def test_an_output_that_is_no_jobs_is_left_alone(llm, job):
    job.output.write_text("precious")
    with pytest.raises(JobError, match="exists; give another name, or --restart"):
        prepare_job(job)
    run(llm, dataclasses.replace(job, restart=True))
    shutil.rmtree(job.output.with_name("out.jsonl.stoker"))
    with pytest.raises(JobError, match="exists; give another name, or --restart"):
        prepare_job(job)


def test_a_damaged_sidecar_is_refused(llm, job):
    run(llm, job)
    (job.output.with_name("out.jsonl.stoker") / "job.json").write_text("{")
    with pytest.raises(JobError, match=r"job.json is damaged; .* --restart"):
        prepare_job(job)


def test_an_output_that_was_deleted_is_made_again(llm, job):
    run(llm, job)
    job.output.unlink()
    run(llm, dataclasses.replace(job, seed=9))
    assert len(rows_of(job.output)) == 12


def test_retry_runs_some_statuses_again(llm, job):
    run(llm, job)
    whole = lines(job.output)
    report, asked = run(llm, dataclasses.replace(job, retry=("bad_row", "failed")))
    assert (report.resumed_rows, asked) == (11, [])
    assert lines(job.output) == whole
    report, asked = run(llm, dataclasses.replace(job, retry=("failed",)))
    assert report.complete
    with pytest.raises(InvalidRequestError, match="did you mean 'failed'"):
        dataclasses.replace(job, retry=("faild",))
    with pytest.raises(InvalidRequestError, match="one of the two"):
        dataclasses.replace(job, retry=("failed",), restart=True)


def test_a_retry_of_length_may_raise_the_limit(llm, job):
    run(llm, job)
    more = dataclasses.replace(job, params=dataclasses.replace(PARAMS, max_tokens=9))
    less = dataclasses.replace(PARAMS, max_tokens=5)
    for refused in (more, dataclasses.replace(job, params=less, retry=("length",))):
        with pytest.raises(JobError, match="max_tokens was 6"):
            prepare_job(refused)
    report, asked = run(llm, dataclasses.replace(more, retry=("length",)))
    assert (report.resumed_rows, len(asked)) == (1, 10)
    whole = lines(job.output)
    run(llm, dataclasses.replace(more, restart=True))
    assert lines(job.output) == whole


def test_limit(llm, job):
    report, _ = run(llm, dataclasses.replace(job, limit=5))
    assert report.rows == report.total_rows == 5
    assert sorted(rows_of(job.output)) == [1, 2, 3, 4, 5]
    report, _ = run(llm, dataclasses.replace(job, limit=7))
    assert (report.resumed_rows, report.rows) == (5, 7)
    report, _ = run(llm, job)
    assert report.rows == 12
    with pytest.raises(InvalidRequestError, match="limit must be at least 1"):
        dataclasses.replace(job, limit=0)


def test_strict_stops_at_the_first_bad_row(llm, job):
    strict = dataclasses.replace(job, strict=True)
    with pytest.raises(JobError, match=r"row 4 is bad_row: in\.jsonl, line 4 is not valid JSON"):
        run(llm, strict)
    assert not llm.engine.has_work
    assert 4 not in rows_of(job.output)
    report, _ = run(llm, job)
    assert report.rows == 12
    with pytest.raises(JobError, match="row 4 is bad_row"):
        run(llm, strict)


def test_identical_prompts_are_computed_once(llm, job, tmp_path):
    job.input.write_text('{"prompt": "hello", "n": 1}\n' * 40 + '{"prompt": "hello there"}\n')
    report, asked = run(llm, job)
    assert asked == [1, 41]
    assert report.copied_rows == 39
    each = dataclasses.replace(job, output=tmp_path / "each.jsonl", dedup=False)
    report, asked = run(llm, each)
    assert len(asked) == 41
    assert report.copied_rows == 0
    assert lines(each.output) == lines(job.output)
    hot = dataclasses.replace(PARAMS, temperature=1)
    _, asked = run(llm, dataclasses.replace(job, output=tmp_path / "hot.jsonl", params=hot))
    assert len(asked) == 41


def test_result_key_and_timings(llm, job):
    job.input.write_text('{"prompt": "hello", "result": 7}\n')
    with pytest.raises(JobError, match=r"column 'result' already, .* --result-key"):
        prepare_job(job)
    run(llm, dataclasses.replace(job, result_key="out", timings=True))
    row = rows_of(job.output, "out")[1]
    assert row["result"] == 7
    assert row["out"]["queued_seconds"] >= 0
    assert row["out"]["running_seconds"] > 0
    assert "cached_tokens" not in row["out"]
    job.input.write_text('{"prompt": "hello"}\n{"prompt": "hello", "result": 7}\n')
    run(llm, dataclasses.replace(job, restart=True))
    assert [row["result"]["status"] for row in rows_of(job.output).values()] == [
        "bad_row",
        "length",
    ]


def test_ordered(llm, job):
    run(llm, job)
    whole = lines(job.output)
    ordered = dataclasses.replace(job, output=job.output.with_name("ordered.jsonl"), ordered=True)
    run(llm, dataclasses.replace(ordered, limit=5))
    report, _ = run(llm, ordered)
    assert report.resumed_rows == 5
    assert lines(ordered.output) == whole
    assert list(rows_of(ordered.output)) == list(range(1, 13))
    assert prepare_job(ordered).complete
    ordered.output.unlink()  # lost before it was whole: made again, and nothing computed
    _, asked = run(llm, ordered)
    assert asked == []
    assert lines(ordered.output) == whole


def test_what_is_left_of_an_ordered_output_is_mended(llm, job):
    """It follows from the journal: what was torn, edited or is run again is written anew."""
    ordered = dataclasses.replace(job, ordered=True)
    run(llm, ordered)
    whole = job.output.read_bytes()
    first = whole.splitlines(keepends=True)
    sidecar = job.output.with_name("out.jsonl.stoker")
    (known,) = [json.loads((sidecar / "job.json").read_text())]
    for there in (b"", whole[:-7], b"x" + whole[1:], whole + b"more", first[0] + first[2]):
        (sidecar / "job.json").write_text(json.dumps({**known, "finished": False}))
        job.output.write_bytes(there)
        _, asked = run(llm, ordered)
        assert asked == []
        assert job.output.read_bytes() == whole
    retried = dataclasses.replace(ordered, retry=("bad_row",))
    report = prepare_job(retried)
    seen = []
    run_job(llm, retried, report, lambda report: seen.append(job.output.read_bytes()))
    assert job.output.read_bytes() == whole
    assert all(whole.startswith(one) for one in seen)


def test_an_ordered_output_that_is_replaced_is_noticed(llm, job):
    ordered = dataclasses.replace(job, ordered=True)

    def replace(report):
        if job.output.exists() and not job.output.with_name("away").exists():
            job.output.rename(job.output.with_name("away"))

    with pytest.raises(JobError, match=r"out.jsonl has been removed or replaced"):
        run_job(llm, ordered, prepare_job(ordered), replace)
    report, asked = run(llm, ordered)
    assert (report.rows, asked) == (12, [])
    assert list(rows_of(job.output)) == list(range(1, 13))


@pytest.mark.parametrize("ordered", [False, True])
def test_parquet(llm, job, ordered):
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"prompt": "hello", "number": 1, "mixed": "a", "list": [1, 2.5], "hollow": {}},
        {"prompt": "hello 2", "number": 2.5, "mixed": 7, "nested": {"a": 1}},
        {"prompt": "hello 3", "mixed": None, "nested": {"b": "x"}, "wide": 2**70, "é": "日本"},
        {"nothing": True},
    ]
    job.input.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(llm, job)
    expected = rows_of(job.output)
    output = job.output.with_suffix(".parquet")
    report, _ = run(llm, dataclasses.replace(job, output=output, ordered=ordered))
    assert report.rows == 4
    table = pq.read_table(output).to_pylist()
    if ordered:
        assert [row["result"]["row"] for row in table] == [1, 2, 3, 4]
    found = {row["result"]["row"]: row for row in table}
    for number, row in expected.items():
        for name, value in row["result"].items():
            assert found[number]["result"][name] == value
    assert found[2]["number"] == 2.5
    assert [found[n]["mixed"] for n in (1, 2, 3)] == ["a", "7", None]
    assert found[3]["wide"] == str(2**70)
    assert found[1]["hollow"] == "{}"
    assert found[3]["nested"] == {"a": None, "b": "x"}
    assert found[3]["é"] == "日本"


def test_half_a_surrogate_is_a_row(llm, job):
    job.input.write_text('{"prompt": "\\ud800"}\n{"prompt": "hello", "x": "\\ud800"}\n')
    run(llm, job)
    rows = rows_of(job.output)
    assert rows[1]["result"]["status"] in ("bad_row", "length")
    assert rows[2]["x"] == "\ud800"


def test_an_output_that_is_the_input(job):
    with pytest.raises(JobError, match="same file"):
        prepare_job(dataclasses.replace(job, output=job.input))


def test_a_folder_that_may_not_be_written(job, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if not mounted:
        folder.chmod(0o555)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("no folder is closed to this user")
        with pytest.raises(JobError, match="locked may not be written"):
            prepare_job(dataclasses.replace(job, output=folder / "out.jsonl"))
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)


def test_a_sidecar_that_cannot_be_written(llm, job):
    sidecar = job.output.with_name("out.jsonl.stoker")
    sidecar.write_text("in the way")
    report = prepare_job(job)
    with pytest.raises(JobError, match=r"cannot make the folder .*out.jsonl.stoker"):
        run_job(llm, job, report, lambda report: None)


def test_parameters_that_came_later_count_where_they_are_set(llm, job):
    run(llm, job)
    cut_to(job.output, 5)
    kept = dataclasses.replace(job.params, skip_special_tokens=False)
    with pytest.raises(JobError, match="skip_special_tokens was null and is false"):
        run(llm, dataclasses.replace(job, params=kept))
