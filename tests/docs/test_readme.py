"""The README's figures stand in result files, and its commands are those of .ci/run."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
NUMBER = r"(?<![\w.-])\d[\d,]*(?:\.\d+)?"
UNIT = r"(?:(?: output)? tokens/s| times| ?%| rows/s| (?:us|ms|s|GB|MiB)\b)"
MEASURED = rf"({NUMBER}(?:(?:,| and| to) {NUMBER})*)({UNIT})"  # 1.16 and 1.32 times


def blocks(text):
    """List items, rows of tables and paragraphs, without code and with links' files at the end."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    for part in re.split(r"\n\n|\n(?=- |\d+\. |\| )", text):
        files = re.findall(r"\((benchmarks/results/[^)]+)\)", part)
        yield re.sub(r"`[^`]*`|\]\([^)]*\)", "", " ".join(part.split())), files


def numbers(value):
    """All numbers in a file's JSON."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers(one)
    elif isinstance(value, int | float):
        yield float(value)


def holds(known, figure, unit):
    """Whether a number rounds to `figure`; in per cent 0.0085 is 0.9 %."""
    decimals = len(figure.partition(".")[2])
    wanted, margin = float(figure.replace(",", "")), 0.5 * 10**-decimals + 1e-9
    factors = (1, 100) if "%" in unit else (1,)
    return any(abs(x * factor - wanted) <= margin for x in known for factor in factors)


def problems(text):
    for block, files in blocks(text):
        known = [x for file in files for x in numbers(json.loads((ROOT / file).read_text("utf-8")))]
        # with a unit anywhere; beside a file every number with decimals
        found = {one: "" for one in re.findall(NUMBER, block) if files and "." in one}
        for some, unit in re.findall(MEASURED, block):
            found |= dict.fromkeys(re.findall(NUMBER, some), unit)
        for figure, unit in found.items():
            if not files:
                yield f"{figure}{unit} names no file of benchmarks/results: {block[:60]}"
            elif not holds(known, figure, unit):
                yield f"{figure}{unit} is not in {', '.join(files)}"


def test_every_figure_names_a_file_that_holds_it():
    assert list(problems(README)) == []
    cited = [file for _, files in blocks(README) for file in files]
    assert len(cited) >= 5
    bullets = README.split("## ")[0].split("\n- ")[1:]
    assert len(bullets) == 3
    assert all("benchmarks/results/" in bullet for bullet in bullets)


ENGINE = "[f](benchmarks/results/2026-11-21-cpu-engine.json)"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"- 3.41 times as fast ({ENGINE})", None),
        (f"- 3.41 and 4.76 times as fast ({ENGINE})", None),
        (f"| 1,801 output tokens/s, 60.9 % {ENGINE} |", None),
        ("Python 3.11, 1,000 tasks, `9.9 times`", None),
        (f"- 3.42 times as fast ({ENGINE})", "3.42"),
        (f"- 3.41 and 4.77 times as fast ({ENGINE})", "4.77"),
        (f"- 516 and 1,802 output tokens/s ({ENGINE})", "1,802"),
        ("- 516 and 1,801 output tokens/s", "516 output tokens/s names no file"),
        (f"| 1,802 output tokens/s {ENGINE} |", "1,802"),
        ("- 3.41 times as fast", "names no file"),
        (f"- 3.41 times as fast\n- and so on ({ENGINE})", "names no file"),
    ],
)
def test_what_counts_as_a_figure(text, told):
    found = list(problems(text))
    assert (told in found[0]) if told else found == []


def test_the_commands_are_those_that_ci_runs():
    ran = (ROOT / ".ci" / "run").read_text("utf-8").replace(" -q", "")
    (commands,) = re.findall(r"```sh\n(python3 -m venv .*?)```", README, re.S)
    lines = commands.strip().splitlines()
    assert len(lines) == 2
    assert [line for line in lines if line not in ran] == []


def test_the_python_of_the_page_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(code, {})
    assert len(code.split("\n\n")[1].strip().splitlines()) <= 5
    assert capsys.readouterr().out.strip()
