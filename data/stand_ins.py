"""What lies in place of a file that was not fetched: a pointer of Git LFS or Xet, a page of HTML, nothing."""

from pathlib import Path

_BEGINNINGS = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself: run `git lfs pull` there",
    b"# xet version": "is a pointer of Xet, not the file itself: download the file",
    b"<!doctype html": "is a page of HTML, not the file itself: download it anew",
    b"<html": "is a page of HTML, not the file itself: download it anew",
}


def refuse_stand_in(path: Path) -> None:
    """Raise ValueError if the file only stands for another, or is empty."""
    with path.open("rb") as file:
        check_beginning(path, file.read(64))


def check_beginning(path: Path, content: bytes) -> None:
    """The same of a file of which so many first bytes (64 are enough), or all, have been read."""
    beginning = content[:64].lstrip().lower()
    if not beginning:
        raise ValueError(f"{path} is empty")
    for mark, what in _BEGINNINGS.items():
        if beginning.startswith(mark):
            raise ValueError(f"{path} {what}")
