"""Amazon's descriptions of its services as unlabelled text: many topics, each with pages of its own."""

import gzip
import html
import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from data import packages

_MEMBER = re.compile(r"botocore/data/([^/]+)/([^/]+)/service-2\.json\.gz")
# Tags within a word or sentence leave nothing behind, all others part what is around them.
_INLINE = re.compile(r"</?(?:a|b|code|em|i|span|strong|u)(?:\s[^>]*)?>")
_TAG = re.compile(r"<[^>]+>")
_PAGE = 200
"""Words at which a page ends with its line."""


class AwsDocumentation(tfds.core.GeneratorBasedBuilder):
    """Pages of 200 words and more, each of one of 439 services; one split `train`, one feature `text`.

    A service's own description and those of its operations, in the order of their names, a line each; a page holds as
    many whole lines as it needs. Of several versions of a service the newest; tags are left out, and lines that a service
    repeats. A service has as many pages as it has to say: a few have hundreds, most have a few.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "From botocore 1.44.5."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Documentation of the services of AWS (Apache-2.0).",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # pip brings the archive
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, str]]]:
        with zipfile.ZipFile(packages.fetch(packages.BOTOCORE)) as archive:
            newest: dict[str, str] = {}
            for name in sorted(archive.namelist()):
                if found := _MEMBER.fullmatch(name):
                    newest[found[1]] = name
            for service, name in newest.items():
                for number, page in enumerate(_pages(json.loads(gzip.decompress(archive.read(name))))):
                    yield f"{service}-{number:04}", {"text": page}


def _pages(model: dict[str, Any]) -> Iterator[str]:
    """What one service has to say; the last page may be short."""
    described = [model, *(operation for _, operation in sorted(model["operations"].items()))]
    lines = [_plain(one["documentation"]) for one in described if "documentation" in one]
    page: list[str] = []
    for line in dict.fromkeys(lines):
        page.append(line)
        if sum(len(written.split()) for written in page) >= _PAGE:
            yield "\n".join(page)
            page = []
    if any(page):
        yield "\n".join(page)


def _plain(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", _INLINE.sub("", text))).split())
