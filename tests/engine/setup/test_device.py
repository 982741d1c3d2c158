"""Why a GPU can't be had, told apart; torch is made to say what it would say."""

import pytest
import torch

from stoker.config import EngineOptions
from stoker.engine.setup.device import find_device
from stoker.errors import ConfigError

NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"
TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update"


def pretend(monkeypatch, problem=None, version="13.0", count=1, capability=(9, 0)):
    def init():
        if problem:
            raise RuntimeError(problem)

    monkeypatch.setattr(torch.version, "cuda", version)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90", "compute_90"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


@pytest.mark.parametrize(
    ("problem", "version", "message"),
    [
        (None, None, r"is built without CUDA; install one that has it"),
        (NO_DRIVER, "13.0", "there is no NVIDIA driver"),
        (
            TOO_OLD,
            "13.0",
            r"driver is too old for this PyTorch, which is built for CUDA 13.0.*version 11040",
        ),
        ("No CUDA GPUs are available", "12.8", "torch sees no NVIDIA GPU; use cpu"),
        ("Cannot re-initialize CUDA", "12.8", "CUDA 12.8 does not start: Cannot re-initialize"),
        ("\n", "12.8", "CUDA 12.8 does not start: no reason was given"),
    ],
)
def test_reasons(monkeypatch, problem, version, message):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pretend(monkeypatch, problem, version)
    with pytest.raises(ConfigError, match=f"device 'cuda' was asked for, but .*{message}"):
        find_device("cuda")


def test_hidden_gpus_are_named(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    pretend(monkeypatch, "No CUDA GPUs are available")
    with pytest.raises(ConfigError, match="no NVIDIA GPU; CUDA_VISIBLE_DEVICES is '7'; use cpu"):
        find_device("cuda")


def test_a_gpu_that_is_there(monkeypatch):
    pretend(monkeypatch)
    assert find_device("cuda") == torch.device("cuda")
    assert find_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ConfigError, match=r"device 'cuda:1' is not there; this machine has 1 GPU"):
        find_device("cuda:1")
    pretend(monkeypatch, capability=(7, 0))
    with pytest.raises(ConfigError, match=r"capability 7.0, and this PyTorch .* serves 7.5"):
        find_device("cuda")


def test_other_devices():
    assert find_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="device 'abacus' is not known; use cpu or cuda"):
        find_device("abacus")


def test_devices_that_are_not_served():
    for name in ("auto", "gpu", "None"):
        with pytest.raises(ConfigError, match="is not known; use cpu or cuda"):
            find_device(name)
    for name in ("mps", "meta", "xpu:1"):
        with pytest.raises(ConfigError, match="can't be served; use cpu or cuda"):
            find_device(name)
    assert find_device("cpu:0") == torch.device("cpu")


def test_options_of_other_types():
    assert EngineOptions(device=torch.device("cpu")).device == "cpu"
    assert EngineOptions(device=torch.device("cuda", 1)).device == "cuda:1"
    with pytest.raises(ConfigError, match="prefix_cache must be True, False or 'auto', not 'no'"):
        EngineOptions(prefix_cache="no")
    with pytest.raises(ConfigError, match=r"seed must be a whole number, not 1\.5"):
        EngineOptions(seed=1.5)
