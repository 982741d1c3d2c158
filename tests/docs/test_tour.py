"""docs/internals/tour.md lists the files of a `generate` call in the order it meets them."""

import re
import sys
from pathlib import Path

import pytest

import stoker
from stoker import LLM, SamplingParams
from stoker.engine.request.request import Request
from stoker.ops.native.build import load_kernels

ROOT = Path(stoker.__file__).parent
TOUR = ROOT.parent / "docs" / "internals" / "tour.md"
GREEDY = SamplingParams(temperature=0, max_tokens=5)
MOST_FILES, MOST_LINES = 27, 4050  # of a decoded token; the aim is 20 and 3,000


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
    lines = sum(len((ROOT / file).read_text().splitlines()) for file in files)
    assert lines <= MOST_LINES
