"""Python ends while threads step engines: the process ends well, and soon."""

import subprocess
import sys
import threading

from stoker.llm.turns import Turns

STEPPING = """
import threading, time, torch
from stoker.llm.session import Session

class Engine:
    has_work = True

    def step(self):
        for _ in range(20):  # most of the time Python's lock is not held
            torch.mm(a, a)
        return []

torch.set_num_threads(1)
a = torch.randn(300, 300)
session = Session(Engine(), 0)

def step():
    while True:
        session.step()

for _ in range(3):
    threading.Thread(target=step, daemon=True).start()
time.sleep(0.3)
"""


def test_daemon_threads_do_not_abort_the_process():
    done = subprocess.run(
        [sys.executable, "-c", STEPPING], capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_kept_turn_comes_first_and_is_never_given_back():
    turns, log = Turns(), []
    inside, go = threading.Event(), threading.Event()

    def hold():
        with turns.take():
            inside.set()
            go.wait()
            log.append("step")

    def wait():
        with turns.take():
            log.append("another step")

    def keep():
        turns.keep(60)
        log.append("kept")

    threads = [threading.Thread(target=one, daemon=True) for one in (hold, wait, keep)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    while not turns._waiting:
        pass
    threads[2].start()
    while len(turns._waiting) < 2:
        pass
    go.set()
    threads[2].join(60)
    threads[1].join(0.1)
    assert log == ["step", "kept"]


def test_it_waits_no_longer_than_told():
    turns, inside = Turns(), threading.Event()

    def hold():
        with turns.take():
            inside.set()
            threading.Event().wait()

    threading.Thread(target=hold, daemon=True).start()
    inside.wait()
    turns.keep(0.01)
