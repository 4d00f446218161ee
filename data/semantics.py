"""A token table in closed form, from which documents share which words.

Latent semantic analysis: the counts of tokens per document, damped and weighted by rarity, factored by a truncated SVD. It
takes seconds where a gradient on the same signal takes many minutes, so training may start from it.
"""

import numpy as np
import scipy.sparse

from data.documents import Documents


def count_matrix(docs: Documents, vocab_size: int) -> scipy.sparse.csr_matrix:
    """float32[documents, V]: how often each token stands in each document."""
    rows = np.repeat(np.arange(len(docs)), docs.lengths)
    columns = np.concatenate([np.zeros(0, np.int32), *(docs[i] for i in range(len(docs)))])
    ones = np.ones(len(columns), np.float32)
    return scipy.sparse.csr_matrix((ones, (rows, columns)), shape=(len(docs), vocab_size))


def truncated_svd(
    matrix: scipy.sparse.csr_matrix, rank: int, random: np.random.Generator, rounds: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """The largest singular values [R] and right vectors [R, columns]; R is less than `rank` for a small matrix.

    Randomised subspace iteration (Halko, Martinsson and Tropp, arXiv 0909.4061, algorithms 4.4 and 5.1) with 20 spare
    columns: a few products with blocks of vectors, where ARPACK multiplies one vector at a time.
    """
    rank = min(rank, *matrix.shape)
    columns = min(rank + 20, *matrix.shape)
    basis, _ = np.linalg.qr(matrix @ random.standard_normal((matrix.shape[1], columns), np.float32))
    for _ in range(rounds):
        basis, _ = np.linalg.qr(matrix.T @ basis)
        basis, _ = np.linalg.qr(matrix @ basis)
    _, strengths, components = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)
    return strengths[:rank], components[:rank]


def semantic_table(
    docs: Documents, *, vocab_size: int, width: int, first_ordinary_id: int, seed: int = 0
) -> np.ndarray:
    r"""Unit vectors [V, width] whose products say which tokens share documents.

    .. math:: x_{dv} = \frac{(1 + \ln n_{dv})\, \ln (N / (1 + N_v))}{\text{norm of row } d}, \qquad
              X \approx U S V^T, \qquad e_v = \text{row } v \text{ of } V S^{1/2}, \text{ to length 1}

    n counts token v in document d, N_v the documents that contain v. Special tokens, and those of no or of all
    documents, get random unit vectors.

    Args:
      docs: the corpus.
      vocab_size: V.
      width: components; at most as many as there are documents or tokens, the rest is drawn at random (small).
      first_ordinary_id: ids below are special.
      seed: of the random parts and of the start vector.

    Example:
      Tokens 1 and 2 share documents, as do 3 and 4: within a pair the vectors agree, between pairs they are orthogonal.

      >>> docs = Documents.from_tokens([[1, 2], [1, 2, 2], [3, 4], [3, 3, 4], [1, 2], [3, 4]])
      >>> e = semantic_table(docs, vocab_size=5, width=2, first_ordinary_id=1)
      >>> [round(float(abs(e[a] @ e[b])), 2) for a, b in ((1, 2), (3, 4), (1, 3))]
      [1.0, 1.0, 0.0]

    Reference:
      Deerwester et al., Indexing by latent semantic analysis, JASIS 41(6), 1990; square root of the singular values:
      Levy, Goldberg and Dagan, TACL 2015, section 3.3.
    """
    random = np.random.default_rng(seed)
    table = random.standard_normal((vocab_size, width)).astype(np.float32)
    counts = count_matrix(docs, vocab_size)
    containing = np.asarray((counts > 0).sum(axis=0)).ravel()
    rarity = np.maximum(np.log(len(docs) / (1.0 + containing)), 0.0) * (containing > 0)
    rarity[:first_ordinary_id] = 0.0
    counts.data = 1.0 + np.log(counts.data)
    weighted = counts @ scipy.sparse.diags(rarity.astype(np.float32))
    norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    weighted = scipy.sparse.diags((1.0 / np.maximum(norms, 1e-9)).astype(np.float32)) @ weighted
    strengths, components = truncated_svd(weighted.tocsr(), width, random)
    known, rank = rarity > 0, len(strengths)
    found = (components.T * np.sqrt(strengths))[known]
    table[known, :rank] = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
    table[known, rank:] *= 0.1 / np.sqrt(width)
    return table / np.linalg.norm(table, axis=1, keepdims=True)
