"""The library's door: texts to hidden states, the same from a run and from its published form."""

import jax
import numpy as np
import pytest

from finetune.convert import export_run
from finetune.predict import load as load_classifier
from finetune.predict import predict
from finetune.states import hidden_states, load, logits, rows

TEXTS = ["a fine film", "dull plot and a story that ends", "anna"]


@pytest.fixture(scope="module")
def models(pretrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "model"
    export_run(pretrained, folder)
    return load(pretrained), load(folder)


def test_a_run_and_its_published_form_say_the_same(models):
    ours, published = models
    batch = rows(ours, TEXTS)
    for name, array in rows(published, TEXTS).items():
        np.testing.assert_array_equal(array, batch[name], err_msg=name)
    for function in (hidden_states, logits):
        np.testing.assert_array_equal(function(ours, batch), function(published, batch))
    assert logits(ours, batch).shape == (*batch["tokens"].shape, ours.network.backbone.config.vocab_size)


def test_all_heads_come_along(sentiment):
    model = load(sentiment[0])
    batch = rows(model, TEXTS)
    bound = model.network.bind(model.params)
    pooled = bound.head("pooler", hidden_states(model, batch)[:, 0])
    said = jax.nn.softmax(bound.head("classifier", pooled))
    expected = [list(one.probabilities.values()) for one in predict(load_classifier(sentiment[0]), TEXTS)]
    np.testing.assert_allclose(said, expected, atol=1e-5)


def test_padding_changes_nothing(models):
    ours, _ = models
    together = hidden_states(ours, rows(ours, TEXTS))
    for row, text in enumerate(TEXTS):
        batch = rows(ours, [text], length=27)
        real = int(batch["segment_ids"].sum())
        np.testing.assert_allclose(hidden_states(ours, batch)[0, :real], together[row, :real], atol=1e-5)


def test_pairs_have_types_and_are_cut_at_the_end(models):
    ours, _ = models
    first, second = (ours.tokenizer.encode(text) for text in TEXTS[:2])
    batch = rows(ours, [(TEXTS[0], TEXTS[1])], length=len(first) + 3 + 2)
    begin, end = ours.tokenizer.cls_id, ours.tokenizer.sep_id
    assert batch["tokens"][0].tolist() == [begin, *first, end, *second[:2], end]
    assert batch["type_ids"][0].tolist() == [0] * (len(first) + 2) + [1] * 3


def test_rows_that_cannot_be_are_refused(models):
    ours, _ = models
    with pytest.raises(ValueError, match="there are no texts"):
        rows(ours, [])
    with pytest.raises(ValueError, match="some texts are pairs and some are not"):
        rows(ours, ["a", ("a", "b")])
    with pytest.raises(ValueError, match="rows of 64 tokens: 2 are the frame, and the model can place 32"):
        rows(ours, TEXTS, length=64)
    assert rows(ours, ["story " * 100])["tokens"].shape == (1, 32)
