"""A machine as Linux shows it, for what reads /sys and /proc."""

import pytest


@pytest.fixture
def machine(tmp_path):
    """A function that writes files, name below the root -> content, and returns the root."""

    def write(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        return tmp_path

    return write
