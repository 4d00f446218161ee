"""The way of one batch stays as short as it has become, and is the one that the README names."""

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.ways import BEGINNING, ROOT, account, follow_all

# Most moves in one forward, and most project files in all without model internals. Only ever lower them.
BOUNDS = {
    "causal LM": (14, 12),
    "masked LM": (24, 14),
    "BERT (mixture)": (48, 19),
    "fine-tuning with LoRA": (18, 15),
}


@pytest.fixture(scope="module")
def ways():
    # Followed in a process of their own: the caches must be empty, and those of the other tests are worth keeping.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(follow_all).result()


def test_no_way_has_become_longer(ways):
    assert ways.keys() == BOUNDS.keys()
    for name, (moves, files) in BOUNDS.items():
        way = ways[name]
        found = len(way.moves), len(way.files_without_internals)
        assert found[0] <= moves and found[1] <= files, (
            f"{name}: {found[0]} moves (at most {moves}), {found[1]} files (at most {files})"
            + account(name, way)
        )


def test_the_readme_names_files_on_the_way(ways):
    listed = re.search(
        r"To follow one batch, read (.*?) in this\s+order", (ROOT / "README.md").read_text(), re.S
    )
    files = re.findall(r"`(\w+/\w+\.py)`", listed.group(1))
    assert len(files) >= 4
    for name in ("causal LM", "masked LM"):
        missing = sorted(set(files) - set(ways[name].files))
        assert not missing, f"{name} never passes {missing}"


def test_the_way_begins_in_the_loop():
    source = (ROOT / BEGINNING).read_text()
    assert "stream.batch(" in source and "programs.train(" in source
