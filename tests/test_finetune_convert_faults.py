"""Imports and exports that end half-way: killed, damaged, at once, on a full disk, into places that cannot be."""

import pytest
from safetensors import SafetensorError

from finetune.convert import export_run, main
from finetune.published import files
from train.checkpoint import HASHES
from train.cli import one_line_errors
from train.restore import open_run
from train.workdir import alone


@pytest.fixture(scope="module")
def exported(pretrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "published"
    export_run(pretrained, folder)
    return folder


def imported(exported, run):
    return one_line_errors(main, ["import", str(exported), "--to", str(run)])


def test_an_import_that_was_killed_or_is_damaged_is_made_again(exported, tmp_path, capsys):
    run = tmp_path / "run"
    assert imported(exported, run) == 0
    capsys.readouterr()
    (run / "checkpoints" / "0" / HASHES).unlink()  # killed between saving and hashing
    assert imported(exported, run) == 0
    assert "is ready: fine-tune" in capsys.readouterr().out and open_run(run).step == 0
    file = max(
        (p for p in (run / "checkpoints" / "0" / "params").rglob("*") if p.is_file()),
        key=lambda p: p.stat().st_size,
    )
    file.write_bytes(file.read_bytes()[:-1])
    assert imported(exported, run) == 0
    assert "is ready: fine-tune" in capsys.readouterr().out and open_run(run).step == 0
    assert imported(exported, run) == 0
    assert "holds it already" in capsys.readouterr().out and not (run / "set_aside").exists()


def test_two_imports_into_one_folder(exported, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with alone(tmp_path / "run"):
        assert imported(exported, tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "is in use by process" in said and said.count("\n") == 1


def test_an_export_to_a_full_disk_is_one_line_and_leaves_nothing(pretrained, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(files, "save_file", full)
    assert one_line_errors(main, ["export", str(pretrained), "--to", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "bytes of weights: I/O error: No space left on device" in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file", "file/below", "link", "x" * 300])
def test_places_that_cannot_be(pretrained, exported, tmp_path, place, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for arguments in (["export", str(pretrained)], ["import", str(exported)]):
        assert one_line_errors(main, [*arguments, "--to", str(tmp_path / place)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1 and place.split("/")[0] in said
