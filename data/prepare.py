"""Text in, tokenised corpus out: `python -m data.prepare FILES... --vocab-size 8192 --out DIR`.

Idempotent: a corpus made from the same inputs is reused, anything else at `out` is left alone. Rows are made
of it at training, by packing.py.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import rich.console
import rich.progress
import tyro

from data.array_store import remove_folder
from data.documents import FORMAT, Documents, DocumentsWriter, text_hash
from data.files import check_writable, said
from data.folder_lock import Taken, locked
from data.packages import cache_dir
from data.paths import NoPath, local_path, path_options
from data.records import DataError, DocumentEnd
from data.sources import TextSource, documents
from data.tokenizer import MAX_SENTENCES, Tokenizer, load_tokenizer, train_sentencepiece

TOKENIZER_FILE = "tokenizer.model"
# Characters handed to a worker at a time.
_CHUNK = 500_000
# Less input than this is tokenised in this process: starting workers takes about a second.
_WORTH_WORKERS = 8_000_000
# Seconds between two looks at whether another process is done.
_POLL = 0.5

Encoded = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainTokenizer:
    """Train a SentencePiece vocabulary on the corpus itself."""

    vocab_size: int
    """Number of pieces, 7 special ones included."""
    lowercase: bool = True
    """Fold case."""
    model_type: Literal["unigram", "bpe"] = "unigram"
    byte_fallback: bool = False
    """Spell unknown characters in bytes instead of giving up on them."""
    max_sentences: int = MAX_SENTENCES
    """Sentences it is trained on, drawn evenly from all."""


def prepare(
    inputs: str | Sequence[str],
    *,
    tokenizer: str | Path | TrainTokenizer,
    out: str | Path | None = None,
    column: str = "text",
    end: DocumentEnd = "blank line",
    workers: int | None = None,
) -> Documents:
    """Tokenise text into a corpus at `out`, or return the one already there if it came from the same inputs.

    Args:
      inputs: globs of .txt or .jsonl files (plain or .gz), or TFDS names.
      tokenizer: a tokenizer file, or how to train one; a copy lies beside the corpus as tokenizer.model.
      out: directory of the corpus; None names one by its inputs under the cache.
      column: where the text is in .jsonl files and TFDS data sets.
      end: what ends a document of a .txt file.
      workers: processes; None takes all cores for large inputs and none for small ones.

    Raises:
      DataError: the input is not as it should be; the message names the place.
      FileExistsError: `out` holds a corpus of other inputs.
    """
    source = documents(inputs, column=column, end=end)
    if isinstance(tokenizer, TrainTokenizer):
        how: Any = dataclasses.asdict(tokenizer)
    else:
        how = load_tokenizer(tokenizer).fingerprint
    request = {"inputs": source.specs, "input_fingerprint": source.fingerprint, "tokenizer": how}
    digest = hashlib.sha256(json.dumps([FORMAT, request], sort_keys=True).encode()).hexdigest()
    directory = local_path(out) if out is not None else cache_dir() / "prepared" / digest[:16]
    # What lies in the cache is ours to make again; another place is the user's.
    ours = out is None
    found = _existing(directory, request, ours)
    if found is None:
        check_writable(directory)
        with _alone(directory):
            found = _existing(directory, request, ours)
            if found is None and ours:
                remove_folder(directory)
            if found is None:
                found = _write(directory, source, tokenizer, how, request, workers)
    return found


def _existing(directory: Path, request: dict[str, Any], ours: bool) -> Documents | None:
    """The corpus that is there already; None if there is none, or a damaged one of ours."""
    if not os.path.lexists(directory):
        return None
    try:
        return _reuse(directory, request)
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        if not ours:
            raise
        print(f"{error}: preparing it again", file=sys.stderr, flush=True)
        return None


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Nobody else prepares this corpus meanwhile: whoever comes second waits, and then finds it."""
    lock, told = directory.with_name(f"{directory.name}.lock"), False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(lock, str(directory), "waiting until it is prepared"))
                break
            except Taken as taken:
                if not told:
                    print(taken, file=sys.stderr, flush=True)
                told = True
                time.sleep(_POLL)
        stack.callback(functools.partial(lock.unlink, missing_ok=True))
        yield


def _write(
    directory: Path,
    source: TextSource,
    tokenizer: str | Path | TrainTokenizer,
    how: Any,
    request: dict[str, Any],
    workers: int | None,
) -> Documents:
    """Read, tokenise, and move the corpus to its place."""
    with DocumentsWriter(directory) as writer:
        kept = writer.partial / TOKENIZER_FILE
        if isinstance(tokenizer, TrainTokenizer):
            texts = _watched(source, "reading for the vocabulary")
            vocabulary: Tokenizer = train_sentencepiece(texts, path=kept, **how)
        else:
            vocabulary = load_tokenizer(tokenizer)
            vocabulary.save(kept)
        count = _worker_count(workers, source.size)
        empty = 0
        for tokens, lengths, hashes in _encode_all(_watched(source, "tokenising"), vocabulary, count):
            some = lengths > 0
            empty += int((~some).sum())
            writer.add(tokens, lengths[some], hashes[some])
        if not writer.documents:
            raise DataError(f"{', '.join(source.specs)}: the corpus is empty")
        meta = {"request": request, "empty": empty, "vocab_size": vocabulary.vocab_size}
        try:
            return writer.finish({**meta, "tokenizer": vocabulary.fingerprint})
        except OSError:
            # Another process may have prepared the same corpus meanwhile.
            if not directory.exists():
                raise
    return _reuse(directory, request)


def _reuse(directory: Path, request: dict[str, Any]) -> Documents:
    if not (directory / "meta.json").is_file():
        raise FileExistsError(
            f"{directory} exists and is no prepared corpus: choose another --out (no meta.json)"
        )
    corpus = Documents.load(directory)
    old = corpus.meta["request"] if "request" in corpus.meta else {}
    if not isinstance(old, dict):
        raise ValueError(f"{directory / 'meta.json'} is damaged: its request is {old!r}: prepare it again")
    if old != request:
        changed = [key for key in request if old.get(key) != request[key]]
        other = ", ".join(f"{key} was {old.get(key)}, now {request[key]}" for key in changed)
        raise FileExistsError(
            f"{directory} holds another corpus ({other}): delete it or choose another --out"
        )
    return corpus


def _worker_count(workers: int | None, size: int) -> int:
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if workers is not None:
        return workers
    return len(os.sched_getaffinity(0)) if size >= _WORTH_WORKERS else 1


def _watched(source: TextSource, what: str) -> Iterator[str]:
    """The texts, with a progress bar on the error stream."""
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=1.0)
        for number, text in enumerate(source):
            if number % 64 == 0:
                bar.update(task, completed=source.done)
            yield text
        bar.update(task, completed=1.0)


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _encode_all(texts: Iterable[str], tokenizer: Tokenizer, workers: int) -> Iterator[Encoded]:
    """Chunks in order, whatever the number of workers; only a few are in flight."""
    if workers == 1:
        for chunk in _chunks(texts):
            yield encode_chunk(tokenizer, chunk)
        return
    # Not forked: this process may hold threads of jax.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (tokenizer,)) as pool:
        yield from _in_flight(pool, _chunks(texts), 2 * workers)


def _in_flight(pool: Executor, chunks: Iterable[list[str]], most: int) -> Iterator[Encoded]:
    pending: deque[Future[Encoded]] = deque()
    for chunk in chunks:
        pending.append(pool.submit(_work, chunk))
        if len(pending) >= most:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def encode_chunk(tokenizer: Tokenizer, texts: Sequence[str]) -> Encoded:
    """(tokens end to end, length of each text, hash of each text)."""
    ids = tokenizer.encode_batch(texts)
    lengths = np.array([len(i) for i in ids], np.int64)
    dtype = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
    tokens = np.fromiter(itertools.chain.from_iterable(ids), dtype, int(lengths.sum()))
    return tokens, lengths, np.array([text_hash(text) for text in texts], np.uint64)


_worker_tokenizer: Tokenizer | None = None


def _start_worker(tokenizer: Tokenizer) -> None:
    global _worker_tokenizer
    # Ctrl-C goes to all processes of a terminal; the one that started these says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker_tokenizer = tokenizer


def _work(texts: list[str]) -> Encoded:
    assert _worker_tokenizer is not None
    return encode_chunk(_worker_tokenizer, texts)


def main(
    inputs: Annotated[tuple[str, ...], tyro.conf.Positional],
    /,
    *,
    out: Path,
    tokenizer: Path | None = None,
    vocab_size: int | None = None,
    lowercase: bool = True,
    model_type: Literal["unigram", "bpe"] = "unigram",
    byte_fallback: bool = False,
    column: str = "text",
    end: DocumentEnd = "blank line",
    workers: int | None = None,
) -> int:
    """Tokenise text into a corpus with random access.

    Args:
      inputs: Globs of .txt or .jsonl files, plain or .gz, or TFDS names (tfds:NAME[/config][:split]).
      out: Directory of the corpus.
      tokenizer: A tokenizer file; give this or --vocab-size.
      vocab_size: Train a SentencePiece vocabulary of this size on the corpus.
      lowercase: Fold case in the trained vocabulary.
      model_type: Kind of the trained vocabulary.
      byte_fallback: Spell unknown characters in bytes.
      column: Where the text is in .jsonl files and TFDS data sets.
      end: What ends a document of a .txt file.
      workers: Processes; all cores for large inputs if not given.
    """
    if (tokenizer is None) == (vocab_size is None):
        print("give either --tokenizer or --vocab-size", file=sys.stderr)
        return 2
    how: Path | TrainTokenizer
    if vocab_size is None:
        assert tokenizer is not None
        how = tokenizer
    else:
        how = TrainTokenizer(
            vocab_size=vocab_size, lowercase=lowercase, model_type=model_type, byte_fallback=byte_fallback
        )
    try:
        corpus = prepare(inputs, tokenizer=how, out=out, column=column, end=end, workers=workers)
    except (ValueError, OSError) as error:
        print(f"error: {said(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    meta = corpus.meta
    print(
        f"{out}: {meta['documents']:,} documents, {meta['tokens']:,} tokens, {meta['empty']:,} empty left out"
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main, prog="python -m data.prepare", registry=path_options()))
    except NoPath as error:
        sys.exit(f"error: {error}")
