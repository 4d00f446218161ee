"""Folders of published tokenizers are read as the published classes read them, whichever file a setting stands in."""

import json

import pytest

from data.tokenizer_files import published_tokenizer
from tests.golden import tokenizers

RECORDED = json.loads(tokenizers.RECORDED.read_text())


@pytest.mark.parametrize("name", tokenizers.FOLDERS)
def test_a_folder_is_read_as_the_published_library_reads_it(name, tmp_path):
    ours = published_tokenizer(tmp_path, tokenizers.put(tmp_path, name))
    theirs = RECORDED[name]
    for text, found, ids in zip(
        tokenizers.TEXTS, ours.encode_batch(tokenizers.TEXTS), theirs["ids"], strict=True
    ):
        assert found == ids, text
    assert list(ours.frame(pair=True).around(ours.encode("a"), ours.encode("b"))) == theirs["pair"]
