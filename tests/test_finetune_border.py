"""What a tokenizer's files say of a row, both ways across the border: its length, the side that is cut, the frame."""

import json

import jax
import pytest

from data.frame import Frame
from data.published_tokenizer import PublishedTokenizer
from data.tokenizer import SentencePieceTokenizer
from data.tokenizer_files import published_tokenizer
from finetune import states
from finetune.build import fine_tune
from finetune.convert import _state, export_run, import_run
from finetune.predict import load, predict
from finetune.tasks.text_classification import TextClassification
from model.gpt2 import Gpt2Config
from model.network import Network
from tests.tuned import settings
from train.adapter import FULL
from train.checkpoint import Checkpoints
from train.describe import encode, read_json
from train.restore import open_run
from train.workdir import claim

LONG = "fine film plot actor scene music story dull awful ending weak cold"


@pytest.fixture(scope="module")
def classifier(sentiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("border") / "classifier"
    export_run(sentiment[0], folder)
    return folder


def set_config(folder, **changes):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(read_json(path) | changes))


def test_an_export_is_cut_where_its_run_cuts(sentiment, classifier):
    length = open_run(sentiment[0]).rows.length
    assert read_json(classifier / "tokenizer_config.json")["model_max_length"] == length


def test_a_published_classifier_reads_the_part_of_a_text_that_its_files_say(classifier, tmp_path):
    (classifier / "generation_config.json").write_text('{"top_k": 7}')
    set_config(classifier, truncation_side="left", model_max_length=8)
    import_run(classifier, tmp_path / "left")
    run = open_run(tmp_path / "left")
    assert run.rows.length == 8 and run.tokenizer.frame(pair=False).side == "left"
    model = load(run)
    end = " ".join(LONG.split()[-6:])
    assert len(model.tokenizer.encode(end)) == 6, "the words are pieces"
    whole, last = (one.probabilities for one in predict(model, [LONG, end]))
    assert whole == pytest.approx(last, abs=1e-6)
    batch = states.rows(states.load(tmp_path / "left"), [LONG], length=8)
    assert batch["tokens"][0, 1:7].tolist() == model.tokenizer.encode(end)
    export_run(tmp_path / "left", tmp_path / "out")
    again = read_json(tmp_path / "out" / "tokenizer_config.json")
    assert (again["truncation_side"], again["model_max_length"]) == ("left", 8)
    assert read_json(tmp_path / "out" / "generation_config.json") == {"top_k": 7}


def test_a_length_that_means_none_is_not_written_again(classifier, tmp_path, capsys):
    set_config(classifier, truncation_side="right", model_max_length=10**30)
    import_run(classifier, tmp_path / "run")
    most = open_run(tmp_path / "run").model.max_positions
    assert open_run(tmp_path / "run").rows.length == most
    export_run(tmp_path / "run", tmp_path / "out")
    assert read_json(tmp_path / "out" / "tokenizer_config.json")["model_max_length"] == most
    with pytest.raises(ValueError, match=f"length 999 exceeds the {most} tokens that the model can place"):
        import_run(classifier, tmp_path / "long", length=999)


def test_a_token_that_the_model_has_no_row_for_is_refused(classifier, tmp_path):
    set_config(classifier, truncation_side="right", additional_special_tokens=["<new>"])
    with pytest.raises(ValueError, match="'<new>' would have no row in the model's table"):
        import_run(classifier, tmp_path / "run")


def test_a_gap_may_have_two_types(classifier):
    tokenizer = published_tokenizer(classifier, "bert")
    content = json.loads(tokenizer._text())
    gap = [{"SpecialToken": {"id": "[SEP]", "type_id": kind}} for kind in (0, 1)]
    pair = [{"Sequence": {"id": "A", "type_id": 0}}, *gap, {"Sequence": {"id": "B", "type_id": 1}}]
    content["tokenizer"]["post_processor"]["pair"] = pair
    frame = PublishedTokenizer(content).frame(pair=True)
    sep = tokenizer.sep_id
    assert frame == Frame((), (sep, sep), (), (0, 0, (0, 1), 1, 0))
    assert frame.around([9], [8]) == ([9, sep, sep, 8], [0, 0, 1, 1])


@pytest.mark.parametrize("older", [False, True])
def test_a_decoder_keeps_the_frame_that_it_was_pretrained_in(older, pretrained, tables, tmp_path, request):
    tokenizer = open_run(pretrained).tokenizer
    if older:
        tokenizer = SentencePieceTokenizer(request.getfixturevalue("older_vocabulary"))
    size = {"layers": 1, "width": 16, "heads": 2, "mlp_width": 16, "max_positions": 32}
    model = Gpt2Config(vocab_size=tokenizer.vocab_size, **size)
    params = jax.device_get(Network(model.build()).init(jax.random.key(0)))
    described = {"model": encode(model), "adapter": encode(FULL), "framing": "bos_eos"}
    claim(tmp_path / "decoder", described, tokenizer)
    checkpoints = Checkpoints(tmp_path / "decoder" / "checkpoints", keep=1)
    checkpoints.save(0, _state(params), {})
    checkpoints.close()
    framed = [tokenizer.bos_id, *tokenizer.encode("a fine film"), tokenizer.eos_id]

    def begins(batch):
        return batch["tokens"][0, : len(framed)].tolist() == framed

    assert begins(states.rows(states.load(tmp_path / "decoder"), ["a fine film"]))
    task = TextClassification(pooling="last")
    experiment = settings(tmp_path / "decoder", tables, steps=1, task=task, reuse_heads=())
    fine_tune(experiment, tmp_path / "tuned", quiet=True)
    assert begins(states.rows(states.load(tmp_path / "tuned"), ["a fine film"]))
    fine_tune(experiment, tmp_path / "tuned", quiet=True)  # it is not another experiment
    for run in ("decoder", "tuned"):
        export_run(tmp_path / run, tmp_path / f"{run}-out")
        theirs = published_tokenizer(tmp_path / f"{run}-out", "gpt2")
        assert theirs.frame(pair=False).around(theirs.encode("a fine film"))[0] == framed


@pytest.fixture(scope="module")
def older_vocabulary():
    import io

    import sentencepiece

    model = io.BytesIO()
    specials = {
        "pad_id": 0,
        "unk_id": 1,
        "bos_id": 5,
        "eos_id": 6,
        "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([LONG, "a fine film"] * 9),
        model_writer=model,
        vocab_size=80,
        hard_vocab_limit=False,
        minloglevel=2,
        **specials,
    )
    return model.getvalue()
