"""The house stands as its README says: arrows between rooms, sizes of files, snippets that run."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from finetune.convert import command
from finetune.experiment import FineTune
from objectives.check import main as check
from train.cli import load_config, parse, split_code
from train.experiment import Experiment

ROOT = Path(__file__).parent.parent
ROOMS = ("model", "objectives", "data", "train", "finetune", "configs", "benchmarks")
MAY_IMPORT = {
    "model": {"model"},
    "objectives": {"model", "objectives"},
    "data": {"data"},
    "train": {"model", "objectives", "data", "train"},
    "finetune": {"model", "objectives", "data", "train", "finetune"},
    "configs": set(ROOMS) - {"configs"},
    "benchmarks": set(ROOMS) - {"configs"},
}
TRANSLATING = ("published_tokenizer.py", "own_file.py")
"""Files at the border of a library, or of a user's file, that raises nothing narrower than Exception."""
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_run_one_way(room):
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in FILES
        if path.relative_to(ROOT).parts[0] == room
        for name in imported(path)
        if name.split(".")[0] in ROOMS and name.split(".")[0] not in MAY_IMPORT[room]
    ]
    assert not wrong


def test_no_pickle_and_no_broad_except():
    wrong = []
    for path in FILES:
        wrong += [
            f"{path} imports {name}"
            for name in imported(path)
            if name.split(".")[0] in ("pickle", "dill", "cloudpickle")
        ]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException")
            ):
                # What a library raises by that name may be raised again, as an error of ours.
                if path.name not in TRANSLATING or not isinstance(node.body[0], ast.Raise):
                    wrong.append(f"{path}:{node.lineno} catches everything")
    assert not wrong


def test_files_and_functions_stay_readable():
    long = []
    for path in FILES:
        text = path.read_text()
        if text.count("\n") > 400:
            long.append(f"{path}: {text.count(chr(10))} lines")
        tree = ast.parse(text)
        if text.strip() and not ast.get_docstring(tree):
            long.append(f"{path}: does not say what it is for")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 70:
                long.append(f"{path}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines")
    assert not long


def test_the_step_is_short():
    tree = ast.parse((ROOT / "train" / "step.py").read_text())
    step = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "train_step")
    body = step.body[1:]  # without the docstring
    assert body[-1].end_lineno - body[0].lineno + 1 < 40


def test_the_readme_objective_is_sound(tmp_path):
    readme = (ROOT / "README.md").read_text()
    code = re.search(r"## Add an objective.*?```python\n(.*?)```", readme, re.S).group(1)
    (tmp_path / "readme_copy.py").write_text(code)
    assert check([str(tmp_path / "readme_copy.py")]) == 0


def test_every_file_that_the_readme_names_is_there():
    text = (ROOT / "README.md").read_text()
    named = set(
        re.findall(r"\b(?:configs|data|train|model|objectives|finetune|benchmarks)/[\w/]+\.\w+", text)
    )
    assert named and not [name for name in named if not (ROOT / name).exists()]
    for module in set(re.findall(r"python -m ([\w.]+)", text)):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def commands_of_the_docs():
    """Every command line of the README and of docs/ that trains or moves a model, without what the shell does with it."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text().replace("\\\n", " ")
        for line in re.findall(r"python -m (?:train|finetune|finetune\.convert) [^`\n]*", text):
            if "..." not in line:
                yield shlex.split(line.split("#")[0])[2:]


def test_every_command_of_the_docs_can_be_parsed(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = list(commands_of_the_docs())
    assert len(found) >= 10
    for module, *arguments in found:
        if module == "finetune.convert":
            command(arguments)
        elif arguments[0].startswith("configs/"):
            kind = {"train": Experiment, "finetune": FineTune}[module]
            parse(load_config(arguments[0], kind), split_code(arguments[1:])[1], module)
