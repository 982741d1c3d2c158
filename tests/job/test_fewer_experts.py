"""A job with fewer experts: what continues it, and a row of it that runs again."""

import json

import pytest

from stoker.cli.main import main

MODEL = "stoker-tiny-moe"
KEPT = [{"layer": 0, "kept": [0, 1, 2]}]


@pytest.fixture
def job(tmp_path):
    """The command of a job of which one row is done, without a mask, and its mask."""
    rows, mask = tmp_path / "rows.jsonl", tmp_path / "mask.json"
    rows.write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    mask.write_text(json.dumps({"layers": KEPT}))
    command = ["run", str(rows), "-o", str(tmp_path / "out.jsonl"), "-m", MODEL]
    command += ["--max-tokens", "3", "-q", "--no-report"]
    assert main([*command, "--expert-mask", str(mask), "--limit", "1"]) == 0
    return command, mask


def test_a_mask_may_be_moved_and_not_changed(job, capsys):
    command, mask = job
    moved = mask.rename(mask.with_name("moved.json"))
    text = moved.read_text()
    moved.write_text(text + "\n")
    assert main([*command, "--expert-mask", str(moved)]) == 1
    assert "expert_mask.sha256 was" in capsys.readouterr().err
    assert main(command) == 1
    assert "expert_mask.sha256 was" in capsys.readouterr().err
    moved.write_text(text)
    assert main([*command, "--expert-mask", str(moved)]) == 0
    moved.unlink()
    assert main([*command, "--expert-mask", str(moved)]) == 1
    assert "can't be read" in capsys.readouterr().err


def test_other_active_experts_are_another_job(job, capsys):
    command, mask = job
    command += ["--expert-mask", str(mask), "--active-experts"]
    assert main([*command, "1"]) == 1
    assert "active_experts was null and is 1.0" in capsys.readouterr().err


def test_a_row_runs_again_with_the_experts_it_had(job, capsys):
    command, mask = job
    again = ["inspect", command[3], "--again", "1"]
    assert main(again) == 0
    assert "answers   the same" in (shown := capsys.readouterr().out)
    assert "changed nothing" in shown
    mask.write_text(json.dumps({"layers": [{"layer": 0, "kept": [1, 2, 3]}]}))
    assert main(again) == 0
    assert f"the expert mask {mask}, which is another" in capsys.readouterr().out


def test_the_mask_is_for_its_own_model(job, capsys):
    command, mask = job
    assert main(["inspect", command[3], "--again", "1", "-m", "stoker-tiny"]) == 0
    assert f"expert_mask {mask} -> None" in capsys.readouterr().out


def test_damaged_settings_are_refused(job, capsys):
    output = job[0][3]
    with open(f"{output}.stoker/job.json", "r+") as file:
        told = json.load(file)
        told["settings"]["expert_mask"] = "mask.json"
        file.seek(0)
        file.truncate()
        json.dump(told, file)
    assert main(["inspect", output, "--again", "1"]) == 1
    assert "job.json is damaged" in capsys.readouterr().err
