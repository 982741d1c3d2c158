"""After a fork an LLM works or says what to do; it never hangs."""

import copy
import os
import pickle
import subprocess
import sys

import pytest

from stoker import LLM
from stoker.errors import StokerError

PARENT = """
import faulthandler, os, sys
from stoker import LLM, SamplingParams
faulthandler.dump_traceback_later(60, exit=True)
model, before, after = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)
llm = LLM(model, threads=before)
stream = llm.stream("hello", SamplingParams(max_tokens=50, ignore_eos=True))
next(stream)
expected = llm.generate("hello", params)[0].outputs[0].token_ids
if os.fork() == 0:
    for call in (lambda: llm.generate("hello", params), lambda: next(stream)):
        try:
            call()
        except Exception as problem:
            print(type(problem).__name__, problem, flush=True)
    stream.close()
    llm.close()
    try:
        other = LLM(model, threads=after)
        print("worked", other.generate("hello", params)[0].outputs[0].token_ids == expected)
    except Exception as problem:
        print(type(problem).__name__, problem)
    sys.stdout.flush()
    os._exit(0)
print("child", os.wait()[1], flush=True)
print("parent", llm.generate("hello", params)[0].outputs[0].token_ids == expected)
"""


def family(model, before, after):
    arguments = [sys.executable, "-c", PARENT, model, str(before), str(after)]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_is_told_to_use_spawn(text_model):
    first, second, third, child, parent = family(text_model, 2, 2)
    for line in (first, second):
        assert line.startswith("StokerError this LLM was made in process")
        assert 'multiprocessing.get_context("spawn")' in line
    assert third.startswith("StokerError this process was forked from one that had loaded a model")
    assert 'multiprocessing.get_context("spawn")' in third
    assert (child, parent) == ("child 0", "parent True")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_where_no_threads_are_missing_it_works(before, after, text_model):
    assert family(text_model, before, after)[2:] == ["worked True", "child 0", "parent True"]


def test_pickling_says_what_to_do(text_model):
    with LLM(text_model) as llm:
        for attempt in (pickle.dumps, copy.deepcopy):
            with pytest.raises(StokerError, match=r"cannot be pickled.*options.*spawn"):
                attempt(llm)
