"""What a template writes of a row's columns: their values, as JSON has them."""

import json

import pytest

from stoker.engine.request.params import SamplingParams
from stoker.errors import InvalidRequestError, JobError
from stoker.job.prompts import PromptBuilder, PromptSettings, check_prompts
from stoker.job.sources import open_source
from stoker.job.template import MissingColumnError, Template

METHODS = ("items", "keys", "values", "copy", "get", "pop", "update", "clear", "count", "index")
METHODS += ("append", "sort", "format", "title", "upper", "split", "join", "strip")


def written(template, **fields):
    return Template(template, "--prompt").render(fields)


def wrong(template, **fields):
    with pytest.raises(InvalidRequestError) as stop:
        written(template, **fields)
    return str(stop.value)


@pytest.mark.parametrize("name", METHODS)
def test_a_field_with_the_name_of_a_method_is_the_field(name):
    row = {"order": {name: ["tea", 2]}, name: "top", "deep": [{"a": {name: 1.5}}]}
    for template, text in [
        ("{{ order.NAME | tojson }} {{ order.NAME }}", '["tea", 2] ["tea", 2]'),
        ("{{ order['NAME'][0] }} {{ NAME }} {{ row.NAME }}", "tea top top"),
        ("{{ deep[0].a.NAME }}", "1.5"),
        ("{% for x in order.NAME %}<{{ x }}>{% endfor %}", "<tea><2>"),
        ("{{ deep | map(attribute='a.NAME') | join }}", "1.5"),
    ]:
        assert written(template.replace("NAME", name), **row) == text


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_not_a_field(name):
    for value in ({"a": 1}, [1], "text"):
        if not hasattr(value, name):
            continue
        for template in ("{{ v.NAME }}", "{{ v['NAME'] }}", "x{{ v.NAME ~ 'y' }}"):
            message = wrong(template.replace("NAME", name), v=value)
            assert f"there is no {name!r}" in message
            assert "<" not in message  # <built-in method ...>
        absent = "{% if v.NAME is defined %}yes{% endif %}{{ v.NAME | default('none') }}"
        assert written(absent.replace("NAME", name), v=value) == "none"


def test_methods_can_still_be_called():
    order = {"b": 2, "a": 1}
    assert written("{% for k, v in o.items() %}{{ k }}{{ v }}{% endfor %}", o=order) == "b2a1"
    assert written("{{ o.get('a') }} {{ t.title() }} {{ t.count('o') }}", o=order, t="foo bo") == (
        "1 Foo Bo 3"
    )
    assert written("{{ '%s-%s'.format(1, 2) }}{{ '{}'.format(o.a) }}", o=order) == "%s-%s1"
    assert written("{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", l=[1, 2]) == "ab"
    assert written("{% for k, v in o | dictsort %}{{ k }}{% endfor %}", o=order) == "ab"
    assert written("{{ o.items() }} {{ range(2) }}", o=order) == '[["b", 2], ["a", 1]] [0, 1]'
    assert "SecurityError" in wrong("{{ o.pop('a') }}", o=order)


VALUES = [
    {"a": None, "b": [True, "é"]},
    [1, 2.5, "x", None, {"k": "v's"}],
    [],
    {},
    True,
    False,
    0,
    -3,
    1.0,
    1e-7,
    2.5e300,
    10**30,
    "text with 'quotes' & <tags>",
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_values_are_written_as_json(value):
    """However they get into the text; the oracle is json."""
    as_json = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    assert written("{{ v }}", v=value) == as_json
    assert written("{{ row['v'] }}", v=value) == as_json
    assert written("{{ o.v }}", o={"v": value}) == as_json
    assert written("{{ 'a ' ~ v ~ ' b' }}", v=value) == f"a {as_json} b"
    assert written("{{ v | string }}", v=value) == as_json
    assert written("{{ [v, v] | join(', ') }}", v=value) == f"{as_json}, {as_json}"
    assert written("{{ l | map(attribute='v') | list }}", l=[{"v": value}]) == json.dumps(
        [value], ensure_ascii=False
    )
    assert written("{{ l | map(attribute='v') }}", l=[{"v": value}]) == json.dumps(
        [value], ensure_ascii=False
    )
    if isinstance(value, dict | list):
        assert written("{{ v | trim }}", v=value) == as_json
        assert written("{{ '%s' | format(v) }}", v=value) == as_json


def test_null_is_not_written_inside_other_text_either():
    for template in ("{{ v }}", "{{ 'a' ~ v }}", "{{ v | string }}", "{{ [v] | join }}"):
        assert "writes a value that is null (v)" in wrong(template, v=None)
    assert written("{{ o }}", o={"v": None}) == '{"v": null}'


def test_what_is_no_value_is_not_written():
    for name in ("range", "namespace", "self", "loop", "1 ~ range"):
        message = wrong("{% for _ in l %}{{ " + name + " }}{% endfor %}", l=[1])
        assert "which is a function of Jinja's and no column" in message
        assert "object at 0x" not in message
    assert written("{{ range }} {{ namespace }}", range="a", namespace=2) == "a 2"


def test_fields_that_are_not_there_are_named_with_near_ones():
    order = {"id": 1, "items": [{"name": "tea"}]}
    message = wrong("{{ order.itms }}", order=order)
    assert "there is no 'itms' among id, items; did you mean 'items'?" in message
    assert "the columns are order" in message
    assert "there is no 'nme' among name; did you mean 'name'?" in wrong(
        "{{ order['items'][0].nme }}", order=order
    )
    assert "there is no 'name' in a text" in wrong("{{ order.name }}", order="tea")
    assert "there is no 'name' in a null" in wrong("{{ order.name }}", order=None)
    assert "there is no 5 in a list" in wrong("{{ l[5] }}", l=[1])
    assert "'txet', which is not there; did you mean 'text'?" in wrong("{{ txet }}", text="x")
    with pytest.raises(MissingColumnError):
        written("{{ a.b.c }}", a={})


@pytest.mark.parametrize(
    ("template", "hint", "example"),
    [
        ("Translate to French", "", "{{ text }}"),
        ("{{ 'constant' }}", "", "{{ text }}"),
        ("Say {text}", "{text} is not filled in; ", "{{ text }}"),
        ("Say {lang}: {text!r:>9}", "{lang} is not filled in; ", "{{ lang }}"),
        ("Say {txet}", "{txet} is not filled in; ", "{{ text }}"),
        ("Say {0}", "{0} is not filled in; ", "{{ text }}"),
        ("Say {}", "{} is not filled in; ", "{{ text }}"),
        ("Say %s", "%s is not filled in; ", "{{ text }}"),
        ("Say %(lang)s", "%(lang)s is not filled in; ", "{{ lang }}"),
        ("Say $text for $5", "$text is not filled in; ", "{{ text }}"),
        ("Say ${lang}", "${lang} is not filled in; ", "{{ lang }}"),
        ("100 % of $x", "", "{{ text }}"),
    ],
)
def test_a_template_without_a_column_is_told(tmp_path, template, hint, example):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "lang": "fr"}\n{"text": "b", "lang": "de"}\n')
    builder = PromptBuilder(PromptSettings(template), SamplingParams(), True)
    with pytest.raises(JobError) as stop:
        check_prompts(open_source(path), builder)
    assert str(stop.value) == (
        "--prompt has no column in it, so all rows would have the same prompt; "
        f"{hint}write a column as {example}; the columns are text, lang"
    )


@pytest.mark.parametrize("form", ["{text}", "%(text)s", "${text}", "$text"])
def test_a_column_in_another_language_beside_one_in_jinja_is_told(tmp_path, form):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "lang": "fr"}\n')

    def check(template):
        builder = PromptBuilder(PromptSettings(template), SamplingParams(), True)
        check_prompts(open_source(path), builder)

    with pytest.raises(JobError) as stop:
        check("To {{ lang }}: " + form)
    assert str(stop.value) == (
        f"--prompt: {form} is not filled in; write the column as {{{{ text }}}}, and these "
        f"characters themselves as {{{{ {form!r} }}}}"
    )
    check("To {{ lang }}: {{ " + repr(form) + " }}")
    check("To {{ lang }}: " + form.replace("text", "other"))
    check("To {{ lang }}: {{ text }} as " + form)  # the column is there, so this is an example
    settings = PromptSettings("{{ lang }}", system="Be brief. " + form)
    with pytest.raises(JobError, match=r"--system: .* is not filled in; write the column as"):
        check_prompts(open_source(path), PromptBuilder(settings, SamplingParams(), True))


@pytest.mark.parametrize("template", ["{{ text }}", "{text} {{ row | length }}", "{{ range }}"])
def test_a_template_with_a_column_is_not(tmp_path, template):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "range": "fr"}\n')
    builder = PromptBuilder(PromptSettings(template), SamplingParams(), True)
    check_prompts(open_source(path), builder)


def test_a_nested_field_that_no_row_has_is_found_before_the_model(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"order": {"items": 1}}\n')
    builder = PromptBuilder(PromptSettings("{{ order.itmes }}"), SamplingParams(), True)
    with pytest.raises(JobError, match=r"none of the first rows .* did you mean 'items'"):
        check_prompts(open_source(path), builder)
