"""What docs/quickstart.md and docs/python.md show runs as it stands, one block after the other."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import SIZES
from transformers import Qwen3Config, Qwen3ForSequenceClassification

import stoker
from stoker import SamplingParams
from stoker.llm.vllm_options import RENAMED

ROOT = Path(__file__).parents[2]
SHIPPED = Path(stoker.__file__).parent / "shipped" / "stoker-tiny"


def blocks(page, language):
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The folder of a random classifier with the shipped model's tokenizer."""
    folder = tmp_path_factory.mktemp("classifier")
    vocab = json.loads((SHIPPED / "config.json").read_text("utf-8"))["vocab_size"]
    torch.manual_seed(0)
    sizes = SIZES | {"vocab_size": vocab, "num_hidden_layers": 2, "num_labels": 3}
    Qwen3ForSequenceClassification(Qwen3Config(**sizes)).save_pretrained(folder)
    for path in SHIPPED.glob("*token*"):
        shutil.copy(path, folder)
    return folder


def test_the_quickstart_on_the_command_line(tmp_path):
    install, *commands = blocks("quickstart.md", "sh")
    assert "pip install" in install  # what .ci/run does
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "stoker"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m stoker.cli.main "$@"\n')
    command.chmod(0o755)
    script = f'PATH="{tmp_path}/bin:$PATH"\n' + "\n".join(commands)
    script = script.replace(" --expect expected", " --limit 20 --expect expected")
    done = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "of 20 as expected" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "sorted.jsonl").read_text().splitlines()]
    assert [row["words"] for row in rows] == ["pear apple fig", "tin lead gold"]


def test_the_names_of_vllm():
    text = (ROOT / "docs" / "python.md").read_text("utf-8")
    assert dict(re.findall(r"^\| `(\w+)` \| `(\w+)`", text, re.M)) == RENAMED


def test_every_sampling_parameter_is_named():
    text = (ROOT / "docs" / "python.md").read_text("utf-8")
    assert [one for one in SamplingParams.__dataclass_fields__ if f"`{one}`" not in text] == []


@pytest.mark.parametrize("page", ["quickstart.md", "python.md"])
def test_the_python_of_a_page(page, classifier, capsys):
    names = {}
    for block in blocks(page, "python"):
        exec(block.replace("path/to/classifier", str(classifier)), names)
        # the page's vectors are the reader's own
        names.setdefault("vectors", torch.zeros(2, names["llm"].spec.hidden))
    assert capsys.readouterr().out.strip()
    if page == "python.md":
        assert len(names["probs"]) == 3
        assert -1 <= names["close"] <= 1
    names["llm"].close()
