"""BERT's pretraining objective: masked tokens and next sentences from one encode."""

from objectives.masked_lm import MaskedLM
from objectives.mixture import Mixture
from objectives.next_sentence import NextSentence


def bert(masked_lm: MaskedLM, next_sentence: NextSentence) -> Mixture:
    """The sum of both mean losses; next-sentence prediction reads the masked tokens, as published.

    Example:
      Equal logits over a vocabulary of 64 and over two classes: ln 64 + ln 2 = 4.8520.

      >>> from types import SimpleNamespace
      >>> objective = example()
      >>> objective.coefficients()
      {'mlm/nll': 1.0, 'nsp/nll': 1.0}
      >>> round(sum(objective.initial_loss(SimpleNamespace(vocab_size=64)).values()), 4)
      4.852

    Reference:
      Devlin et al., BERT, arXiv 1810.04805, section 3.1 and appendix A.2.
    """
    return Mixture(parts=(("mlm", masked_lm, 1.0), ("nsp", next_sentence, 1.0)))


def example() -> Mixture:
    """For the property suite."""
    return bert(MaskedLM(), NextSentence(shortest_pair=8, longest_pair=16))
