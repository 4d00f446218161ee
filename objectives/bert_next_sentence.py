"""Next-sentence prediction by BERT's own rule for drawing pairs, its bias included."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from objectives.claims import HostCounts
from objectives.next_sentence import NextSentence
from objectives.pairs import are_of_one_document, draw_two, never, pairs_of
from objectives.rows import Documents, Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertNextSentence(NextSentence):
    r"""As `NextSentence`, with pairs of whole sentences as google-research/bert draws them.

    From a random sentence on, sentences of a document are taken until they fill the pair. A is the first few of them;
    B is the rest if a coin says so, else as many sentences of another document. One sentence alone leaves no rest, so
    its B is always random, and the share of random pairs exceeds one half:

    .. math:: P(y = 1) = \tfrac12 + \tfrac12\, P(\text{one sentence fills the pair or ends its document})

    Pairs that are too long lose tokens of the longer text, at either end. Unlike `NextSentence`, lengths tell something
    about the label. It is here to repeat published runs.

    Terms, metrics, heads: those of `NextSentence`.

    Example:
      One document of two sentences of three tokens, pairs of 4 tokens beside the three special ones. From the first
      sentence two are needed: a coin. From the second only one is left: random. (1/2 + 1) / 2 = 3/4 are random:

      >>> import numpy as np
      >>> objective = BertNextSentence(shortest_pair=7, longest_pair=7, sentence_ends=(9,))
      >>> objective.random_share([np.array([7, 8, 9, 7, 7, 9])], 4)
      0.75

    Reference:
      Devlin et al., BERT, arXiv 1810.04805, appendix A.2; google-research/bert, create_pretraining_data.py.
    """

    sentence_ends: tuple[int, ...]
    """Ids of the tokens that end a sentence (full stop, question mark); the end of a document ends one too."""

    def draw_pair(
        self, docs: Documents, first: int, tokens: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        one, other = draw_two(docs, first, rng)
        sentences = self._sentences(one)
        chunk = _fill(sentences, int(rng.integers(len(sentences))), tokens)
        cut = int(rng.integers(1, len(chunk))) if len(chunk) > 1 else 1
        a = np.concatenate(chunk[:cut])
        label = int(len(chunk) == 1 or rng.integers(2))
        if label:
            others = self._sentences(other)
            rest = _fill(others, int(rng.integers(len(others))), max(1, tokens - len(a)))
        else:
            rest = chunk[cut:]
        return *_truncated(a, np.concatenate(rest), tokens, rng), label

    def random_share(self, docs: Sequence[np.ndarray] | Documents, tokens: int) -> float:
        """The share of random pairs to expect when every pair may have so many tokens beside its special ones."""
        shares = []
        for index in range(len(docs)):
            sentences = self._sentences(docs[index])
            if len(docs[index]) > 1:
                single = [len(_fill(sentences, start, tokens)) == 1 for start in range(len(sentences))]
                shares.append(0.5 + 0.5 * float(np.mean(single)))
        return float(np.mean(shares))

    def example_claims(self, docs: Documents, rows: Sequence[Row]) -> HostCounts:
        pairs = [pair for row in rows for pair in pairs_of(row)]
        apart, together = 0, 0
        for a, b, label in pairs:
            shared = are_of_one_document(docs, a, b)
            apart += label == 0 and not shared
            together += label == 1 and shared
        followed = sum(label == 0 for _, _, label in pairs)
        return {
            "B is of another document than A": never(apart, followed),
            "random B from A's document": never(together, len(pairs) - followed),
        }

    def _sentences(self, doc: np.ndarray) -> list[np.ndarray]:
        ends = np.flatnonzero(np.isin(doc, self.sentence_ends)) + 1
        return [sentence for sentence in np.split(doc, ends) if len(sentence)]


def _fill(sentences: list[np.ndarray], start: int, tokens: int) -> list[np.ndarray]:
    """Sentences from `start` on until they have so many tokens, or none is left; at least one."""
    total = np.cumsum([len(sentence) for sentence in sentences[start:]])
    return sentences[start : start + 1 + int(np.searchsorted(total, tokens))]


def _truncated(
    a: np.ndarray, b: np.ndarray, tokens: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Both without tokens at the ends of the longer one, until they have at most so many together."""
    while len(a) + len(b) > tokens:
        shorter_end = slice(1, None) if rng.integers(2) else slice(None, -1)
        a, b = (a[shorter_end], b) if len(a) > len(b) else (a, b[shorter_end])
    return a, b


def example() -> BertNextSentence:
    """For the property suite: one token in eight or so ends a sentence."""
    return BertNextSentence(shortest_pair=8, longest_pair=16, sentence_ends=tuple(range(8, 64, 4)))
