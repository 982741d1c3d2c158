"""What rows ask: templates, chats before prompts, examples, and parameters of their own."""

import json

import pytest

from stoker.engine.request.params import SamplingParams
from stoker.errors import InvalidRequestError, JobError
from stoker.job.overrides import Overrides
from stoker.job.prompts import (
    PromptBuilder,
    PromptSettings,
    check_prompts,
    read_examples,
    read_template,
)
from stoker.job.rows import Row
from stoker.job.sources import open_source
from stoker.job.template import Template

BASE = SamplingParams(temperature=0, max_tokens=9)


def ask(fields, chat=True, text="", params=BASE, **settings):
    builder = PromptBuilder(PromptSettings(**settings), params, chat)
    return builder.ask(Row(4, fields, "a.csv, line 4", text))


def asked(*args, **more):
    one = ask(*args, **more)
    return one.kind, one.value


def user(text):
    return {"role": "user", "content": text}


def wrong(*args, **more):
    with pytest.raises(InvalidRequestError) as stop:
        ask(*args, **more)
    return str(stop.value)


def test_templates():
    fields = {"text": "a <b> & 'c'", "two words": "x", "tags": ["p", "ü"]}
    assert asked(fields, template="French: {{ text }}", chat=False) == (
        "prompt",
        "French: a <b> & 'c'",
    )
    assert asked(fields, template="{{ row['two words'] }} {{ tags | tojson }}") == (
        "messages",
        [user('x ["p", "ü"]')],
    )
    assert asked(fields, template="{% if extra is defined %}no{% endif %}{{ text[0] }}")[1] == [
        user("a")
    ]


def test_what_is_wrong_with_a_template_is_said():
    message = wrong({"text": "x", "id": 1}, template="{{ txet }}")
    assert message == (
        "a.csv, line 4: --prompt refers to the column 'txet', which is not there; did you mean "
        "'text'? the columns are text, id"
    )
    message = wrong({"text": None}, template="{{ text }}")
    assert "writes a value that is null (text)" in message
    assert "{{ column or '' }}" in message
    assert asked({"text": None}, template="x{{ text or '' }}")[1] == [user("x")]
    assert "the template failed on this row: ZeroDivisionError" in wrong(
        {"n": 0}, template="{{ 1 / n }}"
    )
    assert "there is no 'b' in an empty object" in wrong({"a": {}}, template="{{ a.b }}")
    assert "the prompt is empty" in wrong({"a": ""}, template="{{ a }}")
    for text in ("{{ text", "{% if %}", "{% endfor %}", "{{ a | nosuch }}"):
        with pytest.raises(InvalidRequestError, match=r"f\.txt, line 2: the template is no Jinja"):
            Template("first\n" + text, "f.txt")


def test_templates_stay_in_their_sandbox():
    secret = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    assert "SecurityError" in wrong({"a": 1}, template=secret)
    assert "SecurityError" in wrong({"a": []}, template="{{ a.append(1) }}")
    assert "is not there" in wrong({"a": 1}, template="{{ lipsum() }}")


def test_rows_with_prompts_of_their_own():
    assert asked({"prompt": "a"}) == ("messages", [user("a")])
    assert asked({"prompt": "a"}, chat=False) == ("prompt", "a")
    assert asked({"prompt": None, "messages": [user("b")]}) == ("messages", [user("b")])
    assert asked({"prompt_token_ids": [1, 2]}) == ("prompt_token_ids", [1, 2])
    assert asked({"text": "line"}, text="text") == ("messages", [user("line")])
    message = wrong({"text": "line", "id": 3})
    assert "exactly one of prompt, messages, prompt_token_ids; it has text, id" in message
    assert "--prompt '{{ column }}'" in message
    assert "it has prompt and messages" in wrong({"prompt": "a", "messages": []})


def test_system_and_examples_go_before():
    system = {"role": "system", "content": "Speak French."}
    own = {"role": "system", "content": "mine"}
    turns = [user("1"), {"role": "assistant", "content": "one"}]
    how = {"system": "Speak {{ to }}.", "examples": (("1", "one"),)}
    assert asked({"prompt": "2", "to": "French"}, **how)[1] == [system, *turns, user("2")]
    chat = {"messages": [user("2")], "to": "French"}
    assert asked(chat, **how)[1] == [system, *turns, user("2")]
    assert asked({"messages": [own, user("2")]}, **how)[1] == [own, *turns, user("2")]
    assert "go to the model as they are" in wrong({"prompt_token_ids": [1]}, **how)
    with pytest.raises(InvalidRequestError, match="--system needs a model with a chat template"):
        ask({"prompt": "2"}, chat=False, system="x")
    with pytest.raises(InvalidRequestError, match="--examples needs a model with a chat"):
        ask({"prompt": "2"}, chat=False, examples=(("1", "one"),))


def test_examples_from_a_file(tmp_path):
    path = tmp_path / "shots.csv"
    path.write_text("text,answer,other\none,un,1\ntwo,deux,2\n")
    how = PromptSettings("French: {{ text }}")
    assert read_examples(path, how, "answer") == (("French: one", "un"), ("French: two", "deux"))
    assert read_examples(path, how, "other")[0] == ("French: one", "1")
    with pytest.raises(JobError, match=r"shots.csv, line 2 has no answer in the column 'reply'"):
        read_examples(path, how, "reply")
    with pytest.raises(JobError, match=r"--examples: shots.csv, line 2: --prompt refers to"):
        read_examples(path, PromptSettings("{{ absent }}"), "answer")
    path.write_text("text,answer\none\n")
    with pytest.raises(JobError, match=r"--examples: shots.csv, line 2 has 1 values"):
        read_examples(path, how, "answer")


def test_parameters_of_a_row():
    own = {"temperature": 0.5, "max_tokens": None, "stop": ["x"], "logit_bias": {"3": -5}, "n": 2}
    params = ask({"prompt": "a", "sampling": own}).params
    assert (params.temperature, params.max_tokens, params.n) == (0.5, None, 2)
    assert params.logit_bias == {3: -5}
    assert params.stop_strings == ("x",)
    assert ask({"prompt": "a", "sampling": json.dumps(own)}).params == params
    for nothing in (None, "", {}):
        assert ask({"prompt": "a", "sampling": nothing}).params == BASE
    loop = {"repetition_detection": {"max_pattern_size": 4}}
    assert ask({"prompt": "a", "sampling": loop}).params.repetition_detection.min_count == 3


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"max_token": 5},
            "unknown sampling parameter 'max_token' in sampling; did you mean 'max_tokens'?",
        ),
        ({"logits_processors": []}, "unknown sampling parameter 'logits_processors'"),
        ({"max_tokens": -3}, "sampling: max_tokens must be at least 1, not -3"),
        ({"temperature": "hot"}, "sampling: temperature must be a finite number, not 'hot'"),
        ({"logit_bias": {"a": 1}}, "logit_bias must map token ids to numbers"),
        ({"repetition_detection": {"size": 1}}, "unknown parameter of repetition_detection 'size'"),
        ({"repetition_detection": {}}, "repetition_detection"),
        ([1], 'sampling must be an object such as {"max_tokens": 64}, not [1]'),
        ("{x", "sampling must be a JSON object"),
    ],
)
def test_parameters_that_can_not_be(given, says):
    message = wrong({"prompt": "a", "sampling": given})
    assert message.startswith("a.csv, line 4: ")
    assert says in message


def test_equal_parameters_are_one_object():
    made = Overrides(BASE)
    assert made.apply({"n": 2, "seed": 1}) is made.apply({"seed": 1, "n": 2})
    assert made.apply(None) is BASE


def test_a_template_that_fits_no_row_is_found_before_the_model(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{broken\n{"text": "b"}\n')
    bad = PromptBuilder(PromptSettings("{{ txt }}"), BASE, True)
    with pytest.raises(JobError, match=r"none of the first rows can be used: a.jsonl, line 1: .*"):
        check_prompts(open_source(path), bad)
    path.write_text('{"text": "a"}\n{"txt": "b"}\n')
    check_prompts(open_source(path), bad)


def test_template_files(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("\ufeffé {{ x }}\n", "utf-8")
    assert asked({"x": 1}, template=read_template(path), chat=False)[1] == "é 1"
    with pytest.raises(JobError, match=r"cannot read .*: No such file"):
        read_template(tmp_path / "none")
    with pytest.raises(JobError, match="is a folder; --prompt-file needs a file"):
        read_template(tmp_path)
    path.write_bytes(b"\xe9")
    with pytest.raises(JobError, match=r"p\.txt is not UTF-8"):
        read_template(path)
