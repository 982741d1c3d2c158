"""The command line in processes of its own: flags, messages, exit codes, interruption."""

import json
import signal
import subprocess
import sys
import time

import pytest

from stoker.cli.main import build_parser, main


def stoker(*args):
    command = [sys.executable, "-m", "stoker.cli.main", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_flags_are_these():
    commands = build_parser()._subparsers._group_actions[0].choices
    flags = {
        name: sorted(flag for action in one._actions for flag in action.option_strings)
        for name, one in commands.items()
    }
    experts = ["--active-experts", "--expert-mask"]
    common = [
        *experts,
        "--chat-template-kwargs",
        "--choice",
        "--debug",
        "--device",
        "--dtype",
        "--gpu-memory",
        "--grammar",
        "--help",
        "--kv-dtype",
        "--max-tokens",
        "--min-p",
        "--model",
        "--quantization",
        "--raw",
        "--regex",
        "--repetition-penalty",
        "--schema",
        "--seed",
        "--temperature",
        "--threads",
        "--top-k",
        "--top-p",
    ]
    assert flags["generate"] == sorted([*common, "-h", "-m"])
    embed = [
        *experts,
        "--debug",
        "--delimiter",
        "--device",
        "--dtype",
        "--format",
        "--gpu-memory",
        "--help",
        "--kv-dtype",
        "--model",
        "--no-normalize",
        "--normalize",
        "--policy",
        "--pooling",
        "--prompt",
        "--prompt-file",
        "--quantization",
        "--read-ahead",
        "--sample",
        "--shard",
        "--threads",
    ]
    files = ["-h", "-m", "-o", "--output", "--restart", "--retry", "--limit", "--strict"]
    files += ["--ordered", "--result-key", "--timings", "--no-dedup"]
    files += ["-q", "--quiet", "--json-progress", "--no-report"]
    expect = ["--expect", "--expect-mode", "--group"]
    assert flags["embed"] == sorted([*embed, *files])
    inputs = ["--format", "--delimiter", "--prompt", "--prompt-file", "--sample", "--shard"]
    inputs += ["--policy", "--read-ahead"]
    chat = ["--answer-column", "--examples", "--system"]
    samples = ["--num-samples", "--sampling"]
    own = [*inputs, *chat, *samples, "--logprobs", "--replicas"]
    assert flags["run"] == sorted([*common, *files, *expect, *own])
    counted = ["--input", "--keep", "--max-tokens", "--limit", "--raw", "--dtype", "--device"]
    counted += ["--quantization", "--threads", "--debug", "--help", "-h", "-o", "--output"]
    counted += ["--format", "--delimiter", "--prompt", "--prompt-file", "--sample", "--shard"]
    counted += ["--restart", "-q", "--quiet", "--json-progress"]
    assert flags["experts"] == sorted([*counted, "--chat-template-kwargs"])
    assert flags["doctor"] == ["--debug", "--help", "--json", "-h"]


def test_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "x.jsonl", "-o", "y", "--max-token", "a"])
    assert stop.value.code == 2
    assert "--max-tokens" in capsys.readouterr().err


def test_generate_and_run(text_model, tmp_path):
    done = stoker("generate", "hello", "-m", text_model, "--max-tokens", 3)
    assert done.returncode == 0, done.stderr
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text('{"prompt": "hello"}\n{broken\n')
    done = stoker("run", rows, "-o", out, "-m", text_model, "--max-tokens", 3, "--threads", 1)
    assert done.returncode == 3, done.stderr
    assert f"stoker: loading {text_model}, 1 thread\n" in done.stderr
    assert "rows      2 of 2 (1 bad_row, 1 length)" in done.stdout
    assert len(out.read_text().splitlines()) == 2
    again = stoker("run", rows, "-o", out, "-m", text_model)
    assert again.returncode == 1
    assert again.stderr.startswith("stoker: ")
    assert "max_tokens was 3 and is 256" in again.stderr
    assert "--restart" in again.stderr
    assert "Traceback" not in again.stderr


def test_plain_messages_without_traceback(tmp_path, capsys):
    assert main(["run", str(tmp_path / "none.jsonl"), "-o", "x"]) == 1
    assert capsys.readouterr().err.startswith("stoker: cannot read")
    assert main(["generate", "x", "--temperature", "-1"]) == 1
    assert "temperature must be 0" in capsys.readouterr().err
    assert main(["generate", "x", "--top-p", "0.9"]) == 1
    assert "--top-p has no effect at temperature 0" in capsys.readouterr().err
    assert main(["generate", "x", "--min-p", "2", "--temperature", "1"]) == 1
    assert "min_p must lie between 0 and 1" in capsys.readouterr().err
    assert main(["run", "x", "-o", "y", "--logprobs", "-1"]) == 1
    assert "logprobs must be at least 0" in capsys.readouterr().err
    assert main(["generate", "x", "-m", "./no-model"]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_sampling_options_reach_the_model(text_model, tmp_path, capsys):
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text('{"prompt": "hello"}\n')

    def results(*options):
        command = ["run", rows, "-o", out, "-m", text_model, "--max-tokens", 12, "--restart"]
        assert main([str(one) for one in [*command, *options]]) == 0
        capsys.readouterr()
        return json.loads(out.read_text())["result"]

    greedy, hot = results("--logprobs", 2), results("--temperature", 9)
    assert greedy["text"] != hot["text"]
    for option in (["--top-k", 1], ["--top-p", 1e-9], ["--min-p", 1]):
        assert results("--temperature", 9, *option)["text"] == greedy["text"]
    assert results("--repetition-penalty", 0.01)["text"] != greedy["text"]
    assert "logprobs" not in hot
    assert len(greedy["logprobs"]) == greedy["output_tokens"] == 12
    assert all(entry[0]["rank"] == 1 and len(entry) == 2 for entry in greedy["logprobs"])
    total = sum(entry[0]["logprob"] for entry in greedy["logprobs"])
    assert abs(total - greedy["cumulative_logprob"]) < 1e-6


def test_interrupted_in_the_middle(text_model, tmp_path):
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text("".join(f'{{"prompt": "hello {number}"}}\n' for number in range(5000)))
    # a shell's background jobs ignore SIGINT, and so would their children: ask for it again
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from stoker.cli.main import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "run", rows, "-o", out, "-m", text_model]
    command += ["--max-tokens", "8"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not (out.exists() and out.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    lines = out.read_text().splitlines()
    assert 0 < len(lines) < 5000
    assert all("result" in json.loads(line) for line in lines)
    assert f"rows      {len(lines)} of 5000" in stdout
