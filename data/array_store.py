"""Arrays that take long to compute, kept in a folder and opened as memory maps."""

import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.files import LARGEST_JSON, NO_ARRAY, check_regular, writing
from data.json_objects import read_object
from data.partial import partial_folder
from data.seals import check_files, check_seal, file_digests, sealed

Arrays = dict[str, np.ndarray]
_ABOUT = "about.json"
_HASHES = "hashes.json"


def open_or_compute(
    folder: Path,
    about: Mapping[str, Any],
    names: tuple[str, ...],
    compute: Callable[[], Arrays],
    check: Callable[[Arrays], None],
) -> Arrays:
    """The arrays of `folder` as read-only memory maps, computed and written there first if need be.

    Several processes may do so at once: each writes beside the place, and the first one that is done moves its folder
    there. Where nothing can be written, the computed arrays themselves are returned.

    Args:
      folder: holds NAME.npy for each name, and what they are about; its name should depend on `about`.
      about: everything that the arrays depend on, as JSON.
      names: of the arrays.
      compute: gives the arrays.
      check: raises ValueError for arrays that cannot be right. What fails is computed again, with a notice.
    """
    if folder.exists():
        try:
            return _open(folder, about, names, check)
        except (OSError, ValueError) as error:
            print(f"{error}: computing it again", file=sys.stderr, flush=True)
            remove_folder(folder)
    arrays = compute()
    check(arrays)
    try:
        _write(folder, about, {name: arrays[name] for name in names})
    except OSError as error:
        print(f"cannot keep {folder} ({error}): it is computed at every start", file=sys.stderr, flush=True)
        return arrays
    return _open(folder, about, names, check)


def _open(
    folder: Path, about: Mapping[str, Any], names: tuple[str, ...], check: Callable[[Arrays], None]
) -> Arrays:
    """Raises OSError or ValueError, which name the file, if anything is not as it was written."""
    file = folder / _ABOUT
    try:
        found = read_object(file, LARGEST_JSON)
        if found != about:
            raise ValueError(f"it is about {found}, not {dict(about)}")
        arrays = {}
        for name in names:
            file = folder / f"{name}.npy"
            # A plain view: indexing np.memmap itself costs several times more per access.
            check_regular(file)
            arrays[name] = np.load(file, mmap_mode="r").view(np.ndarray)
        file = folder
        check(arrays)
        # Those of older versions have none, and are only checked for what can be seen of them.
        if (folder / _HASHES).exists():
            file = folder / _HASHES
            digests = check_seal(file, read_object(file, LARGEST_JSON))
            check_files(folder, digests, [f"{name}.npy" for name in names])
    except NO_ARRAY as error:
        raise ValueError(f"{file} is damaged or not ours ({error})") from error
    return arrays


def _write(folder: Path, about: Mapping[str, Any], arrays: Arrays) -> None:
    with partial_folder(folder) as partial, writing(folder):
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array)
        digests = file_digests(partial, [f"{name}.npy" for name in arrays])
        (partial / _HASHES).write_text(json.dumps(sealed(digests), indent=1) + "\n")
        (partial / _ABOUT).write_text(json.dumps(about, indent=1) + "\n")
        try:
            os.replace(partial, folder)
        except OSError:
            # Another process was faster; its arrays are opened and checked like ours.
            if not folder.exists():
                raise


def remove_folder(folder: Path) -> None:
    """Delete a folder as one: it is moved away first, since another process may be about to open it."""
    if not os.path.lexists(folder):
        return
    aside = folder.with_name(f"{folder.name}.partial-{uuid.uuid4().hex[:12]}")
    try:
        os.replace(folder, aside)
    except OSError as error:
        print(f"cannot remove {folder} ({error})", file=sys.stderr, flush=True)
    shutil.rmtree(aside, ignore_errors=True)
