"""docs/internals/tour.md lists the files of a `generate` call in the order it meets them."""

import ast
import io
import re
import sys
import tokenize
from pathlib import Path

import pytest

import stoker
from stoker import LLM, SamplingParams
from stoker.engine.request.request import Request
from stoker.ops.native.build import load_kernels

ROOT = Path(stoker.__file__).parent
TOUR = ROOT.parent / "docs" / "internals" / "tour.md"
GREEDY = SamplingParams(temperature=0, max_tokens=5)
MOST_FILES, MOST_LINES = 28, 4700  # of a decoded token
MOST_CODE = 3000  # lines of code among these: no blank ones, comments or docstrings


def files_called(work):
    """The files of the package whose functions `work` calls in this thread, in first-met order."""
    met = {}

    def note(frame, event, arg):
        if event == "call" and frame.f_code.co_filename.startswith(str(ROOT)):
            met.setdefault(Path(frame.f_code.co_filename).relative_to(ROOT).as_posix())

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return list(met)


def lines_of_code(text):
    """How many lines of a file hold code."""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (*skipped, tokenize.ENDMARKER):
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_lines_of_code_are_those_without_words():
    text = (
        '"""Doc\nstring."""\n\nx = [\n  1,  # one\n]\n# why\ndef f():\n  """Doc."""\n  return x\n'
    )
    assert lines_of_code(text) == 5


@pytest.fixture(scope="module")
def llm():
    if load_kernels("linear") is None:
        pytest.skip("the tour is that of the C kernels")
    with LLM() as made:
        made.generate("Once", GREEDY)  # what is imported and cached on first use is no part of it
        yield made


def test_the_tour_meets_the_files_of_a_call_in_their_order(llm):
    listed = re.findall(r"^### `(\S+)`", TOUR.read_text(), flags=re.M)
    assert listed == files_called(lambda: llm.generate("In the year of", GREEDY))


def test_a_decoded_token_passes_the_files_with_a_star(llm):
    starred = re.findall(r"^### `(\S+)` \*$", TOUR.read_text(), flags=re.M)
    engine = llm.engine
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    engine.add(Request("decode", tuple(llm.text.encode("In the year of")), params))
    for _ in range(3):
        engine.step()
    files = files_called(engine.step)
    engine.cancel("decode")
    assert set(files) == set(starred)
    assert len(files) <= MOST_FILES
    texts = [(ROOT / file).read_text() for file in files]
    assert sum(len(text.splitlines()) for text in texts) <= MOST_LINES
    assert 2000 < sum(map(lines_of_code, texts)) < MOST_CODE
