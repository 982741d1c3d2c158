"""Jobs in processes of their own that are killed, starved, interrupted and started again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TASKS = Path(__file__).parents[2] / "examples" / "tasks.jsonl"
# a shell's background jobs ignore SIGINT, and so would their children: ask for it again
CODE = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "{before}"
    "from stoker.cli.main import main; sys.exit(main())"
)
OPTIONS = ("--threads", "1", "--temperature", "0.8", "--seed", "5", "--max-tokens", "24")


def command(source, out, *options, before=""):
    args = ["run", source, "-o", out, *OPTIONS, *options]
    return [sys.executable, "-c", CODE.format(before=before), *map(str, args)]


def finished(source, out, *options, before=""):
    call = command(source, out, *options, before=before)
    return subprocess.run(call, capture_output=True, text=True, check=False)


def started(source, out, *options):
    call = command(source, out, *options)
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def when_writing(process, path, size=1):
    """Wait until the job has written something."""
    while process.poll() is None and not (path.exists() and path.stat().st_size >= size):
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


def lines(path):
    return sorted(path.read_bytes().splitlines(keepends=True))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Some tasks, with rows that are no good among them; and what an unbroken run makes of them."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = TASKS.read_text().splitlines()[:240]
    rows[10:10] = ['{"prompt": "torn', "", '{"nothing": 1}', json.dumps({"prompt": "x " * 3000})]
    source = folder / "tasks.jsonl"
    source.write_text("\n".join(rows) + "\n")
    done = finished(source, folder / "whole.jsonl")
    assert done.returncode == 3, done.stderr
    whole = lines(folder / "whole.jsonl")
    assert len(whole) == 243
    return source, whole


def check_kills(tasks, tmp_path, kills, seed, *options):
    """Kill the job at random moments until it has been killed so often; whenever it has ended, its
    output must be that of an unbroken run, and it begins anew."""
    source, whole = tasks
    rng = random.Random(seed)
    out = tmp_path / "out.jsonl"
    journal = tmp_path / "out.jsonl.stoker" / "rows.jsonl" if options else out
    seen = []
    while len(seen) < kills:
        before = journal.stat().st_size if journal.exists() else 0
        process = started(source, out, *options)
        if rng.random() < 0.8:  # in the middle; the others die at any moment of their start
            while process.poll() is None and not (
                journal.exists() and journal.stat().st_size > before
            ):
                time.sleep(0.002)
            time.sleep(rng.random() * 0.08)
        else:
            time.sleep(rng.random() * 3)
        process.kill()
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            if options:
                check_beginning(out, whole)
            seen.append(journal.read_bytes().count(b"\n") if journal.exists() else 0)
            continue
        assert process.returncode == 3
        assert lines(out) == whole
        for path in {out, journal}:
            path.unlink()
    done = finished(source, out, *options)
    assert done.returncode == 3, done.stderr
    assert lines(out) == whole
    assert len({rows for rows in seen if 0 < rows < len(whole)}) >= kills // 4
    return out


def by_number(line):
    return json.loads(line)["result"]["row"]


def check_beginning(out, whole):
    """What there is of an ordered output is a beginning of all of it; gives its rows."""
    there = [line for line in lines_of(out) if line.endswith(b"\n")]
    assert there == sorted(whole, key=by_number)[: len(there)]
    return len(there)


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def test_killed_five_times(tasks, tmp_path):
    check_kills(tasks, tmp_path, 5, 1)


@pytest.mark.slow
def test_killed_twenty_five_times(tasks, tmp_path):
    check_kills(tasks, tmp_path, 25, 2)


@pytest.mark.slow
def test_killed_with_ordered_output(tasks, tmp_path):
    out = check_kills(tasks, tmp_path, 8, 3, "--ordered")
    assert check_beginning(out, tasks[1]) == len(tasks[1])


@pytest.mark.parametrize("replicas", [1, 2])
def test_an_ordered_output_grows_and_goes_on(tasks, tmp_path, replicas):
    """It is seen to grow, and killed at each size it has what is next and no more."""
    if replicas > len(os.sched_getaffinity(0)):
        pytest.skip("there is one core")
    source, whole = tasks
    out = tmp_path / "out.jsonl"
    options = ("--ordered", "--replicas", replicas)
    seen = [0]
    for _ in range(3):
        process = started(source, out, *options)
        when_writing(process, out, out.stat().st_size + 1 if out.exists() else 1)
        process.kill()
        process.communicate()
        seen.append(check_beginning(out, whole))
    assert 0 < seen[1] <= seen[2] <= seen[3] < len(whole)
    assert finished(source, out, *options).returncode == 3
    assert check_beginning(out, whole) == len(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("replicas", [1, 2])
def test_signals(tasks, tmp_path, number, replicas):
    source, whole = tasks
    if replicas > len(os.sched_getaffinity(0)):
        pytest.skip("there is one core")
    out = tmp_path / "out.jsonl"
    options = ("--replicas", replicas)
    process = started(source, out, *options)
    when_writing(process, out)
    sent = time.monotonic()
    process.send_signal(number)
    stdout, stderr = process.communicate()
    assert time.monotonic() - sent < 2
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    there = lines(out)
    assert 0 < len(there) < len(whole)
    assert f"rows      {len(there)} of 243" in stdout
    done = finished(source, out, *options)
    assert done.returncode == 3
    assert f"continuing {out}, where {len(there)} of 243 rows are" in done.stderr
    assert f"before    {len(there)} rows were there" in done.stdout
    assert lines(out) == whole


def test_sigterm_before_the_first_row(tasks, tmp_path):
    process = started(tasks[0], tmp_path / "out.jsonl")
    assert "loading" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert stderr.endswith("stoker: interrupted\n")


def test_a_torn_last_line(tasks, tmp_path):
    source, whole = tasks
    out = tmp_path / "out.jsonl"
    assert finished(source, out).returncode == 3
    out.write_bytes(out.read_bytes()[:-3000])
    assert finished(source, out).returncode == 3
    assert lines(out) == whole


@pytest.mark.parametrize("ordered", [False, True])
def test_a_full_disk(tasks, tmp_path, ordered):
    source, whole = tasks
    out = tmp_path / "out.jsonl"
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000));"
    options = ("--ordered",) if ordered else ()
    full = finished(source, out, *options, before=limit)
    if ordered:
        assert full.returncode == 1
        assert "rows.jsonl: File too large; the finished rows" in full.stderr
        assert 0 < check_beginning(out, whole) < len(whole)
        assert finished(source, out, *options).returncode == 3
        assert check_beginning(out, whole) == len(whole)
        return
    assert full.returncode == 1
    assert f"stoker: cannot write {out}: File too large; the finished rows" in full.stderr
    assert "the same command goes on" in full.stderr
    assert set(lines(out)) < set(whole)
    assert finished(source, out).returncode == 3
    assert lines(out) == whole


@pytest.mark.slow
def test_a_full_file_system(tasks, tmp_path):
    source, whole = tasks
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    out = disk / "out.jsonl"
    try:
        full = finished(source, out)
        assert full.returncode == 1
        assert f"cannot write {out}: No space left on device" in full.stderr
        assert 0 < len(lines(out)) < len(whole)
        assert set(lines(out)) < set(whole)
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        assert finished(source, out).returncode == 3
        assert lines(out) == whole
    finally:
        subprocess.run(["umount", disk], check=True)


def test_the_output_folder_is_removed(tasks, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    out = folder / "out.jsonl"
    source = tmp_path / "many.jsonl"  # enough for more than a second
    source.write_bytes(TASKS.read_bytes() * 3)
    process = started(source, out, "--no-dedup")
    when_writing(process, out)
    folder.rename(tmp_path / "elsewhere")
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert f"stoker: {out} has been removed or replaced" in stderr
    assert "Traceback" not in stderr


def test_a_second_process_is_refused_and_a_dead_one_is_not_waited_for(tasks, tmp_path):
    source, whole = tasks
    out = tmp_path / "out.jsonl"
    process = started(source, out)
    when_writing(process, out)
    process.send_signal(signal.SIGSTOP)
    second = finished(source, out)
    assert second.returncode == 1
    assert f"another process ({process.pid}) is running the job of {out}" in second.stderr
    assert "loading" not in second.stderr
    process.kill()
    process.communicate()
    assert finished(source, out).returncode == 3
    assert lines(out) == whole
