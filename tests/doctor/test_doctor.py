"""`stoker doctor`: what it finds on made-up machines, its two forms, and that it never hangs."""

import json
import socket
import threading
import time

import pytest
import torch

from stoker.cli.main import main
from stoker.doctor import hub, torch_and_gpu
from stoker.doctor.hub import HubProbe, examine_hub
from stoker.doctor.kernels import examine_kernels
from stoker.doctor.machine import examine_machine
from stoker.ops.native import build
from stoker.ops.native.levels import VARIABLE

TOKEN = "hf_" + "S3cr3t" * 5
SUBJECTS = [
    "processor",
    "attention, float32",
    "linear maps, float32",
    "linear maps, int8",
    "experts, float32",
    "experts, int8",
    "routing",
    "norms, rotation, draws",
    "convolutions, scans",
    "delta rule",
    "bfloat16, float16",
    "torch",
    "Triton",
    "GPU",
    "threads",
    "memory nodes",
    "memory",
    "huge pages",
    "kernel cache",
    "model cache",
    "network",
    "hub token",
]


def by_subject(findings):
    return {finding.subject: finding for finding in findings}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test asks a network for anything beyond this machine."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def test_both_forms_name_everything_and_no_token(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["subject"] for one in found["findings"]] == SUBJECTS
    lines = printed.splitlines()
    assert [line[:24].strip() for line in lines[2 : 2 + len(SUBJECTS)]] == SUBJECTS
    assert found["findings"][-1]["facts"] == {"present": True}
    assert "from HF_TOKEN" in printed
    assert TOKEN not in printed + json.dumps(found)
    assert f"torch{' ' * 19}{torch.__version__}" in printed


def test_a_level_that_is_not_there_is_refused(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "avx1024")
    assert main(["doctor"]) == 1
    assert "avx1024" in capsys.readouterr().err


def test_without_kernels_it_says_what_serves_and_what_would_help(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    monkeypatch.setattr(build, "library_name", lambda *parts: "absent.so")
    found = by_subject(examine_kernels())
    assert found["linear maps, float32"].found.startswith("oneDNN")
    assert "no C compiler" in found["linear maps, float32"].why
    assert "install a C compiler" in found["attention, float32"].advice
    assert found["processor"].facts["compiler"] is None


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_machine_that_gives_little(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    write(
        tmp_path,
        proc__meminfo="MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n",
        proc__self__cgroup="0::/job\n",
        **{
            "sys/fs/cgroup/job/cpu.max": "200000 100000",
            "sys/fs/cgroup/job/memory.max": "1073741824",
            "sys/fs/cgroup/job/memory.current": "1048576",
        },
        sys__kernel__mm__transparent_hugepage__enabled="always madvise [never]\n",
        sys__devices__system__node__node0__cpulist="0-1\n",
        sys__devices__system__node__node1__cpulist="2-3\n",
        sys__devices__system__node__node2__cpulist="4-7\n",
    )
    found = by_subject(examine_machine(tmp_path))
    threads = found["threads"]
    assert threads.found == "2"
    assert "affinity allows 4 of 8" in threads.why
    assert "quota is 2" in threads.why
    assert "--cpus" in threads.advice
    assert (found["memory nodes"].found, "--replicas auto" in found["memory nodes"].advice) == (
        "2",
        True,
    )
    assert found["memory"].facts["cgroup_limit_bytes"] == 1 << 30
    assert "little room" in found["memory"].advice
    assert found["huge pages"].found == "off"
    assert "madvise" in found["huge pages"].advice


def test_a_machine_that_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    found = by_subject(examine_machine(tmp_path))
    assert found["threads"].found == "1"
    assert "unset OMP_NUM_THREADS" in found["threads"].advice
    assert found["memory"].found == "not known"
    assert found["huge pages"].found == "none"


@pytest.fixture
def listener():
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_hub_that_does_not_answer_is_not_waited_for(listener):
    began = time.monotonic()
    assert HubProbe(listener, patience=0.2).answer() == "no answer in time"
    assert time.monotonic() - began < 5


def test_a_name_whose_search_hangs_is_not_waited_for(monkeypatch):
    """The system's search for a name knows no time limit."""
    release = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: release.wait(60) and [])
    began = time.monotonic()
    assert HubProbe("http://hub.example", patience=0.2).answer() == "no answer in time"
    assert time.monotonic() - began < 5
    release.set()


def test_what_a_hub_answers(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"

        def refuse():
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 403 Forbidden\r\n\r\n")
            connection.close()

        threading.Thread(target=refuse, daemon=True).start()
        assert HubProbe(address, patience=20).answer() == ""
    assert HubProbe(address, patience=20).answer() == "Connection refused"
    assert "unknown url type" in HubProbe("hub.example").answer()


def test_a_hub_that_is_switched_off_is_not_asked(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.start_probe() is None
    assert by_subject(examine_hub(None))["network"].found == "off"


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "deep"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    found = by_subject(examine_hub(None))["kernel cache"]
    assert found.found == str(tmp_path / "deep" / "stoker")
    assert found.facts["holds"] == 0
    assert "XDG_CACHE_HOME" in found.advice


def test_a_driver_and_a_torch_that_cannot_use_it(monkeypatch, tmp_path):
    write(tmp_path, proc__driver__nvidia__version="NVRM version: 580")
    monkeypatch.setattr(torch.version, "cuda", None)
    found = torch_and_gpu._gpu(tmp_path)
    assert found.found == "not used"
    assert found.why.startswith("this PyTorch")
    assert "built without CUDA" in found.advice
    assert torch_and_gpu._gpu(tmp_path / "none").why == "there is no NVIDIA driver"


@pytest.mark.parametrize(
    ("version", "told"),
    [("2.10.1", True), ("2.11.0", False), ("2.13.0+cpu", False), ("2.14.1", True)],
)
def test_a_torch_that_was_never_tried_is_told(monkeypatch, version, told):
    monkeypatch.setattr(torch, "__version__", version)
    assert bool(torch_and_gpu._torch().advice) == told
