"""`stoker inspect OUT --again ROW`: a row run again by the settings beside the output."""

import json

import pytest

from stoker.cli.main import main
from stoker.engine.request.params import SamplingParams
from stoker.job.rerun import prompt_text, recorded_job, with_prompt
from stoker.job.rows import Row
from stoker.job.settings import JobSettings

ROWS = [
    {"word": "hello"},
    {"word": "there", "sampling": {"temperature": 1.5, "n": 2, "max_tokens": 5}},
    {"wort": "no such column"},
]
SYSTEM = "Be brief, {{ row.get('word', 'you') }}."


def run_job(path, model, rows, *options):
    source, out = path / "in.jsonl", path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(
        ["run", str(source), "-o", str(out), "-m", model, "--quiet", "--max-tokens", "6", *options]
    )
    return out


def inspect(capsys, *args, code=0):
    capsys.readouterr()
    assert main(["inspect", *map(str, args)]) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


@pytest.fixture(scope="module")
def job(text_model, tmp_path_factory):
    """The output of a job with a template, a system message and a seed."""
    folder = tmp_path_factory.mktemp("job")
    prompt = ["--prompt", "Say {{ word }}", "--system", SYSTEM, "--seed", "3"]
    return run_job(folder, text_model, ROWS, *prompt)


def result(out, number):
    rows = map(json.loads, out.read_text().splitlines())
    return next(row["result"] for row in rows if row["result"]["row"] == number)


@pytest.mark.parametrize("number", [1, 2])
def test_as_it_was_the_answer_is_the_same(job, capsys, number):
    """Greedy, and sampled by the row's own parameters: template, system and seed are back."""
    before = job.read_bytes()
    printed = inspect(capsys, job, "--again", number)
    assert "  changed nothing\n" in printed
    assert f"  prompt  Say {ROWS[number - 1]['word']}\n" in printed
    assert "answers   the same" in printed
    assert job.read_bytes() == before


def test_edited_prompt_and_parameters_give_what_a_job_gives(job, text_model, tmp_path, capsys):
    changes = ["--max-tokens", "4", "--temperature", "0.9", "--top-k", "5", "--seed", "11"]
    printed = inspect(capsys, job, "--again", 1, "--prompt", "Now {{ word }}!", *changes)
    for line in ("temperature 0.0 -> 0.9", "max_tokens 6 -> 4", "top_k 0 -> 5", "seed 3 -> 11"):
        assert line in printed
    assert "  edited  Now hello!\n" in printed
    options = ["--prompt", "Now {{ word }}!", "--system", SYSTEM, *changes]
    twin = result(run_job(tmp_path, text_model, ROWS, *options), 1)
    recorded, columns = recorded_job(job), [x.split(" | ") for x in printed.splitlines()]
    shown = "".join(x[1] for x in columns if len(x) == 2)
    text = "".join(x for x in twin["text"] if x.isprintable())
    assert "".join(shown.split()).endswith("".join(text.split()))
    assert f"new: {twin['status']}, {twin['output_tokens']} tokens" in printed
    assert recorded.settings.params == SamplingParams(temperature=0, max_tokens=6)


def test_an_editor_changes_the_prompt(job, capsys, monkeypatch):
    monkeypatch.setenv("VISUAL", "sed -i s/hello/there/")
    assert "  edited  Say there\n" in inspect(capsys, job, "--again", 1, "--edit")
    monkeypatch.setenv("VISUAL", "sed -i s/.*//")
    assert "left empty" in inspect(capsys, job, "--again", 1, "--edit", code=1)
    monkeypatch.setenv("VISUAL", "false")
    assert "ended with code 1" in inspect(capsys, job, "--again", 1, "--edit", code=1)
    monkeypatch.setenv("VISUAL", "/no/such/editor")
    assert "cannot start" in inspect(capsys, job, "--again", 1, "--edit", code=1)


def test_a_bad_row_gets_an_answer_by_another_prompt(job, capsys):
    printed = inspect(capsys, job, "--again", 3)
    assert "old: bad_row" in printed
    assert "new: bad_row" in printed
    printed = inspect(capsys, job, "--again", 3, "--prompt", "Say this", code=0)
    assert "new: length, 6 tokens" in printed or "new: done" in printed


def test_a_request_of_a_batch_file_comes_from_the_input(text_model, tmp_path, capsys):
    chat = [{"role": "user", "content": "hello"}]
    body = {"model": "x", "messages": chat, "max_tokens": 3, "temperature": 1}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    out = run_job(tmp_path, text_model, [request])
    assert "answers   the same" in inspect(capsys, out, "--again", 1)
    printed = inspect(capsys, out, "--again", 1, "--prompt", "there", "--max-tokens", 2)
    assert "max_tokens 3 -> 2" in printed
    assert "  prompt  hello\n  edited  there\n" in printed
    (tmp_path / "in.jsonl").write_text("{}\n")
    assert "which has changed since" in inspect(capsys, out, "--again", 1, code=1)
    (tmp_path / "in.jsonl").unlink()
    assert "which is not there" in inspect(capsys, out, "--again", 1, code=1)


@pytest.mark.parametrize(
    "text", ["plain", 'a "}} {{ b', "{% raw %}\\n\n é😀 \\u0041 ' \\", "last\n"]
)
def test_any_text_replaces_a_prompt_and_nothing_else(tmp_path, text):
    settings = JobSettings(tmp_path, tmp_path / "o", SamplingParams())
    row = Row(1, {"prompt": "old", "kind": "x"})
    changed, new = with_prompt(settings, row, text)
    assert prompt_text(changed, new) == text
    assert new.fields["kind"] == "x"
    chat = [{"role": r, "content": r} for r in ("system", "user", "assistant", "user", "assistant")]
    changed, new = with_prompt(settings, Row(1, {"messages": chat}), text)
    assert prompt_text(changed, new) == text
    assert new.fields["messages"][:3] == chat[:3]
    assert new.fields["messages"][4:] == chat[4:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--again", "9"], "has no such row; its 3 rows have numbers from 1 to 3"),
        (["--again", "-1"], "has no such row"),
        (["--again", "1", "-m", "no-such-model"], "there is no folder 'no-such-model'"),
        (["--again", "1", "--top-k", "3"], "top_k has no effect at temperature 0"),
        (["--again", "1", "--sampling", '{"temprature": 1}'], "did you mean 'temperature'?"),
        (["--again", "1", "--max-tokens", "0"], "max_tokens must be at least 1"),
        (["--again", "1", "--top-k", "3", "--sampling", '{"top_k": 4}'], "give it once"),
        (["--again", "1", "--prompt", "{{ wrd }}"], "did you mean 'word'?"),
        (["--again", "1", "--prompt", "x", "--edit"], "are two prompts"),
        (["--again", "1", "--rows"], "leave out what lists"),
        (["--temperature", "1"], "--temperature is for a row that is run again; add --again ROW"),
    ],
)
def test_what_cannot_be_run_is_refused(job, capsys, options, message):
    assert message in inspect(capsys, job, *options, code=1)


def test_settings_that_are_missing_or_damaged(text_model, tmp_path, capsys):
    out = run_job(tmp_path, text_model, [{"prompt": "hello"}])
    path = tmp_path / "out.jsonl.stoker" / "job.json"
    known = json.loads(path.read_text())
    with_processor = json.loads(path.read_text())
    with_processor["settings"]["params"]["logits_processors"] = ["double"]
    for content, message in (
        ("{", "is damaged: it is not JSON"),
        ("{}", "is damaged: KeyError"),
        (json.dumps(known | {"format": 0}), "is of another version"),
        (json.dumps(with_processor), "had logits processors (double)"),
        (json.dumps(known | {"model_name": None}), "name no model; give one with -m"),
    ):
        path.write_text(content)
        assert message in inspect(capsys, out, "--again", 1, code=1)
    path.write_text(json.dumps(known | {"model": "0" * 32}))
    assert "others than the job had" in inspect(capsys, out, "--again", 1)
    path.unlink()
    assert "its settings would be in" in inspect(capsys, out, "--again", 1, code=1)
