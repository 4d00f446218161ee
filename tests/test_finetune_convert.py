"""Through both doors: a run becomes a published checkpoint and a run again, and says the same at every station."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from data.published_tokenizer import FORMAT, PublishedTokenizer
from data.tokenizer_files import published_tokenizer
from finetune import states
from finetune.build import fine_tune
from finetune.convert import _padded, _state, export_run, import_run, main
from finetune.predict import load, predict
from finetune.published.bert import XLM_ROBERTA
from finetune.published.folders import read_config
from finetune.published.llama import LLAMA
from finetune.published.modern_bert import MODERN_BERT
from finetune.published.reading import read
from finetune.published.writing import write
from finetune.tasks.text_classification import TextClassification
from model.bert import RobertaConfig
from model.gpt2 import Gpt2Config
from model.llama import LlamaConfig
from model.modern_bert import ModernBertConfig
from model.network import Network
from tests.tuned import settings
from train.adapter import FULL
from train.checkpoint import Checkpoints, flat
from train.cli import one_line_errors
from train.describe import encode, read_json
from train.launch import Mesh
from train.restore import open_run
from train.workdir import claim

SMALL = {"vocab_size": 40, "layers": 2, "width": 16, "heads": 2, "mlp_width": 16, "max_positions": 32}
TEXTS = ["a fine film", "dull plot", "story story awful", "anna"]


def assert_same_params(a, b):
    assert flat(a).keys() == flat(b).keys()
    for path, leaf in flat(a).items():
        np.testing.assert_array_equal(leaf, flat(b)[path], err_msg="/".join(path))


def assert_predict_the_same(run, folder, again):
    """A run, and what its export becomes when it is imported."""
    import_run(folder, again)
    for a, b in zip(*(predict(load(run), TEXTS) for run in (run, again)), strict=True):
        assert a.label == b.label and a.probabilities == pytest.approx(b.probabilities, abs=1e-6)


def put_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(read_config(path) | changes))


@pytest.fixture(scope="module")
def published(pretrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "masked"
    return folder, export_run(pretrained, folder)


def test_a_run_becomes_a_published_checkpoint_and_a_run_again(pretrained, published, tmp_path):
    folder, (architecture, files) = published
    assert architecture == "BertForMaskedLM" and [file.name for file in files] == ["model.safetensors"]
    original = open_run(pretrained)
    assert_same_params(read(folder).params, original.params)
    passport = import_run(folder, tmp_path / "run", launcher=Mesh(fsdp=2))
    assert {entry.status for entry in passport.entries} == {"restored"}
    again = open_run(tmp_path / "run")
    assert again.model == original.model and again.step == 0
    assert_same_params(again.params, original.params)
    assert again.tokenizer.encode_batch(TEXTS) == original.tokenizer.encode_batch(TEXTS)
    assert read_json(tmp_path / "run" / "passport.json")["entries"]


def test_fine_tuned_runs_say_the_same_there_and_back(sentiment, tmp_path):
    folder, _ = sentiment
    assert export_run(folder, tmp_path / "out")[0] == "BertForSequenceClassification"
    assert read_config(tmp_path / "out" / "config.json")["id2label"] == {"0": "bad", "1": "good"}
    assert_predict_the_same(folder, tmp_path / "out", tmp_path / "run")


def test_fine_tuning_starts_from_an_imported_run(pretrained, published, tables, tmp_path):
    import_run(published[0], tmp_path / "imported")
    runs = {}
    for name, init in (("ours", pretrained), ("imported", tmp_path / "imported")):
        experiment = settings(init, tables, steps=4, eval_every=4, save_every=4)
        fine_tune(experiment, tmp_path / f"{name}-tuned", quiet=True)
        runs[name] = open_run(tmp_path / f"{name}-tuned").params
    assert_same_params(runs["ours"], runs["imported"])


def test_mean_pooled_classifiers_have_no_published_class(pretrained, published, tables, tmp_path, capsys):
    task = TextClassification(pooling="mean")
    fine_tune(settings(pretrained, tables, steps=2, task=task), tmp_path / "run", quiet=True)
    arguments = ["export", str(tmp_path / "run"), "--to", str(tmp_path / "out")]
    assert one_line_errors(main, arguments) == 2
    assert "no class of bert has exactly the heads ['classifier']" in capsys.readouterr().err
    assert one_line_errors(main, [*arguments, "--architecture", "BertModel", "--dtype", "bfloat16"]) == 0
    assert "BertModel in" in capsys.readouterr().out
    assert read(tmp_path / "out").dtype == "bfloat16"


def test_the_command_line_imports_twice_and_refuses_another(published, tmp_path, capsys):
    arguments = ["import", str(published[0]), "--to", str(tmp_path / "run")]
    assert one_line_errors(main, arguments) == 0
    assert "is ready: fine-tune with --init" in capsys.readouterr().out
    assert one_line_errors(main, arguments) == 0
    assert "holds it already" in capsys.readouterr().out
    assert one_line_errors(main, [*arguments, "--architecture", "BertModel"]) == 2
    assert "holds another experiment" in capsys.readouterr().err


def test_what_goes_in_by_the_wrong_door_is_named(pretrained, published, tmp_path):
    folder, run = published[0], tmp_path / "run"
    with pytest.raises(
        ValueError, match=r"is a run already: start from it with --init .* finetune\.convert export"
    ):
        import_run(pretrained, run)
    step = next((pretrained / "checkpoints").iterdir())
    with pytest.raises(FileNotFoundError, match="but a checkpoint of a run: name the run folder"):
        import_run(step, run)
    with pytest.raises(ValueError, match="is a published checkpoint already, so there is nothing to export"):
        export_run(folder, run)
    for opens in (load, open_run):
        with pytest.raises(
            ValueError, match=r"is a published checkpoint, no run: .* finetune\.convert import"
        ):
            opens(folder)
    assert not run.exists()
    import_run(folder, run)
    with pytest.raises(
        ValueError, match="is an imported BertForMaskedLM, not a fine-tuned run: it has no task"
    ):
        load(run)
    with pytest.raises(
        ValueError, match=r"has no 'objective', .* it was imported, not trained here; train from it"
    ):
        open_run(run).stored("objective")
    with pytest.raises(ValueError, match="is a Run, not a fine-tuned run"):
        load(pretrained)


def test_another_checkpoint_of_the_same_shape_is_refused(published, tmp_path):
    import_run(published[0], tmp_path / "run")
    shutil.copytree(published[0], tmp_path / "other")
    tensors = load_file(tmp_path / "other" / "model.safetensors")
    save_file({name: x + 1 for name, x in tensors.items()}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(ValueError, match=r"holds another experiment.*\n.*imported.weights"):
        import_run(tmp_path / "other", tmp_path / "run")
    assert read_json(tmp_path / "run" / "passport.json")["source"] == str(published[0])


def test_an_export_appears_whole_or_not_at_all(pretrained, tmp_path, monkeypatch):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "tokenizer.json").write_text("mine")
    with pytest.raises(ValueError, match="taken already holds tokenizer.json: choose another folder"):
        export_run(pretrained, tmp_path / "taken")

    def fails(*_, **__):
        raise ValueError("no space left")

    monkeypatch.setattr(PublishedTokenizer, "publish", fails)
    with pytest.raises(ValueError, match="no space left"):
        export_run(pretrained, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"problem_type": "multi_label_classification"}, "for multi_label_classification of 2 outputs"),
        ({"id2label": {"0": "score"}}, "for regression"),
    ],
)
def test_what_is_no_choice_of_one_class_is_kept_but_predicts_nothing(sentiment, tmp_path, changes, kind):
    export_run(sentiment[0], tmp_path / "out")
    config = read_config(tmp_path / "out" / "config.json") | changes
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    if "id2label" in changes:
        tensors = load_file(tmp_path / "out" / "model.safetensors")
        cut = {name: x[:1] if name.startswith("classifier.") else x for name, x in tensors.items()}
        save_file(cut, tmp_path / "out" / "model.safetensors")
    import_run(tmp_path / "out", tmp_path / "run")
    said = rf"is an imported BertForSequenceClassification {kind}, not a fine-tuned run: .* --init {tmp_path}"
    with pytest.raises(ValueError, match=said):
        load(tmp_path / "run")
    assert export_run(tmp_path / "run", tmp_path / "again")[0] == "BertForSequenceClassification"
    again = read_config(tmp_path / "again" / "config.json")
    assert all(again[key] == value for key, value in changes.items())


def unigram():
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=3))
    tokenizer.add_special_tokens(words[:5])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


@pytest.mark.parametrize(
    ("family", "model", "pooling", "architecture"),
    [
        (LLAMA, LlamaConfig(**SMALL, kv_heads=1, tied=False), "last", "LlamaForSequenceClassification"),
        (MODERN_BERT, ModernBertConfig(**SMALL), "mean", "ModernBertForSequenceClassification"),
    ],
    ids=["llama", "modernbert"],
)
def test_a_classifier_pools_there_and_back_as_here(family, model, pooling, architecture, tables, tmp_path):
    params = jax.device_get(Network(model.build()).init(jax.random.key(0)))
    named = [name for name in family.architectures if name.endswith(("Model", "ForCausalLM"))][-1]
    write(tmp_path / "there", model=model, params=params, family=family, architecture=named)
    unigram().save(str(tmp_path / "there" / "tokenizer.json"))
    # As their library writes it where nobody says more, although the tokenizer pads with 1.
    put_config(tmp_path / "there", pad_token_id=None)
    import_run(tmp_path / "there", tmp_path / "imported")
    task = TextClassification(pooling=pooling)
    fine_tune(settings(tmp_path / "imported", tables, steps=2, task=task), tmp_path / "tuned", quiet=True)
    assert export_run(tmp_path / "tuned", tmp_path / "back")[0] == architecture
    assert not [name for name in load_file(tmp_path / "back" / "model.safetensors") if "lm_head" in name]
    said = read_config(tmp_path / "back" / "config.json")
    # Their decoders look for the last token before the padding.
    assert said["pad_token_id"] == (1 if pooling == "last" else None)
    assert "classifier_pooling" not in said or said["classifier_pooling"] == pooling
    assert_predict_the_same(tmp_path / "tuned", tmp_path / "back", tmp_path / "again")
    export_run(tmp_path / "tuned", tmp_path / "bare", architecture=family.bare_architecture)
    assert "classifier_pooling" not in read_config(tmp_path / "bare" / "config.json")


def test_a_decoder_of_ours_is_classified_elsewhere_with_the_frame_it_learned(pretrained, tables, tmp_path):
    tokenizer = open_run(pretrained).tokenizer
    model = Gpt2Config(**SMALL | {"vocab_size": tokenizer.vocab_size})
    params = jax.device_get(Network(model.build()).init(jax.random.key(0)))
    claim(tmp_path / "decoder", {"model": encode(model), "adapter": encode(FULL)}, tokenizer)
    checkpoints = Checkpoints(tmp_path / "decoder" / "checkpoints", keep=1)
    checkpoints.save(0, _state(params), {})
    checkpoints.close()
    experiment = settings(
        tmp_path / "decoder", tables, steps=2, task=TextClassification(pooling="last"), reuse_heads=()
    )
    fine_tune(experiment, tmp_path / "tuned", quiet=True)
    export_run(tmp_path / "tuned", tmp_path / "out")
    assert_predict_the_same(tmp_path / "tuned", tmp_path / "out", tmp_path / "again")
    assert states.load(tmp_path / "decoder").params["heads"] == {}
    export_run(tmp_path / "decoder", tmp_path / "bare")
    framed, bare = (
        published_tokenizer(tmp_path / name, "gpt2").frame(pair=False) for name in ("out", "bare")
    )
    assert framed == bare and framed.added == 2


def test_a_decoder_needs_a_token_that_pads_and_ends_no_text():
    content = {"format": FORMAT, "tokenizer": json.loads(unigram().to_str()), "config": {}}
    ends = PublishedTokenizer({**content, "roles": {"bos": "<s>", "eos": "</s>", "pad": "<pad>"}})
    assert _padded(ends, "X").pad_id == 1
    with pytest.raises(ValueError, match=r"texts of this run end with '</s>', which pads"):
        _padded(PublishedTokenizer({**content, "roles": {"bos": "<s>", "eos": "</s>"}}), "X")
    with pytest.raises(ValueError, match="the tokenizer has neither pad nor eos"):
        _padded(PublishedTokenizer({**content, "roles": {"bos": "<s>"}}), "X")
    content["tokenizer"]["post_processor"] = None
    assert _padded(PublishedTokenizer({**content, "roles": {"eos": "</s>"}}), "X").pad_id == 2


def test_a_fine_tuned_run_remembers_which_family_it_came_from(pretrained, tables, tmp_path):
    family, model = (
        XLM_ROBERTA,
        RobertaConfig(vocab_size=150, layers=1, width=16, heads=2, mlp_width=16, max_positions=32),
    )
    network = Network(model.build())
    params = jax.device_get(network.init(jax.random.key(0)))
    write(tmp_path / "there", model=model, params=params, family=family, architecture="XLMRobertaModel")
    unigram().save(str(tmp_path / "there" / "tokenizer.json"))
    import_run(tmp_path / "there", tmp_path / "imported")
    fine_tune(settings(tmp_path / "imported", tables, steps=2), tmp_path / "tuned", quiet=True)
    assert export_run(tmp_path / "tuned", tmp_path / "back")[0] == "XLMRobertaForSequenceClassification"
    assert read_config(tmp_path / "back" / "config.json")["model_type"] == "xlm-roberta"


def test_no_torch_is_needed_or_imported(published):
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "import finetune.convert, finetune.states\n"
        "from finetune.published.reading import read\n"
        f"print(len(read({str(published[0])!r}).passport.entries))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 20
