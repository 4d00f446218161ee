"""`python -m tests.golden.make_runs DIR`: the run folders of one format, as today's code writes them.

Format 1 (tests/golden/runs/1) was written on 2026-11-25 by the code of commit 748fc0a. It is never written again: a
run that a user began with that code looks like this, and every later version must open it. A later format gets its own
number, folder and copy of the experiments below.

All words are invented. Paths in the folders are relative to DIR.
"""

import io
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import sentencepiece

from data.tokenizer import BOS, EOS, PAD, UNK, SentencePieceTokenizer
from finetune import predict, states
from finetune.adapters.frozen import Frozen
from finetune.adapters.lora import LoRA
from finetune.build import build as build_fine_tuning
from finetune.build import fine_tune
from finetune.experiment import FineTune, LabelledData, ModelChanges
from finetune.tasks.text_classification import TextClassification
from finetune.tasks.token_classification import TokenClassification
from model.bert import BertConfig
from model.gpt2 import Gpt2Config
from model.t5 import T5V11Config
from objectives.bert import bert
from objectives.causal_lm import CausalLM
from objectives.distillation import Distillation
from objectives.masked_lm import MaskedLM
from objectives.next_sentence import NextSentence
from objectives.span_corruption import SpanCorruption
from train.__main__ import pretrain
from train.build import build
from train.checkpoint import saved_steps, write_hashes
from train.cli import load_config
from train.describe import encode
from train.experiment import Experiment
from train.launch import Mesh
from train.text import TextData

SYLLABLES = ("ba", "do", "fi", "gu", "ke", "lo", "mi", "na")
TEXTS = ("badofi kelo mina.", "gumi nalo kefi doba.", "lokemi")
SENTENCES = (("bado", "fiku", "lona"), ("kemi",))
PIECES, SENTINELS, LENGTH, SEGMENTS = 50, 4, 32, 4
SHAPE = {"vocab_size": PIECES, "layers": 1, "width": 8, "heads": 2, "mlp_width": 16, "max_positions": LENGTH}


def write_texts() -> None:
    """A corpus, labelled texts and labelled words, and a vocabulary without the large table of a case folder."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(SYLLABLES, rng.integers(1, 4))) for _ in range(40)]
    sentence = lambda: " ".join(rng.choice(words, rng.integers(3, 7))) + "."  # noqa: E731
    documents = [" ".join(sentence() for _ in range(4)) for _ in range(40)]
    Path("text.txt").write_text("\n\n".join(documents) + "\n")
    for name, count in (("train", 16), ("eval", 8)):
        lines = [f"{sentence()},{('low', 'high')[i % 2]}\n" for i in range(count)]
        Path(f"{name}.csv").write_text("text,label\n" + "".join(lines))
        tagged = []
        for _ in range(count):
            some = [str(word) for word in rng.choice(words, 4)]
            tagged.append({"tokens": some, "tags": ["B-X" if word < "g" else "O" for word in some]})
        Path(f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in tagged))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(documents),
        model_writer=model,
        vocab_size=PIECES,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
        pad_id=PAD,
        unk_id=UNK,
        bos_id=BOS,
        eos_id=EOS,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"],
    )
    SentencePieceTokenizer(model.getvalue()).save("tokenizer.model")


def pretraining() -> dict[str, Experiment]:
    """By the name of the folder."""
    data = TextData(
        files=("text.txt",),
        length=LENGTH,
        max_segments=SEGMENTS,
        tokenizer="tokenizer.model",
        held_out=0.2,
        eval_rows=8,
    )
    common = {
        "batch_size": 8,
        "steps": 4,
        "log_every": 1,
        "eval_every": 2,
        "save_every": 2,
        "launcher": Mesh(),
    }
    masked_lm, pairs = MaskedLM(), NextSentence(shortest_pair=8, longest_pair=16)
    spans = SpanCorruption(sentinels=SENTINELS)
    long = {**SHAPE, "vocab_size": PIECES + SENTINELS}
    mini = BertConfig(**SHAPE, types=2)
    return {
        "bert": Experiment(model=mini, objective=bert(masked_lm, pairs), data=data, **common),
        "gpt": Experiment(
            model=Gpt2Config(**SHAPE, attention_dropout=0.0),
            objective=CausalLM(),
            data=TextData(**{**vars(data), "framing": "bos_eos"}),
            **common,
        ),
        "t5": Experiment(
            model=T5V11Config(**long, head_dim=4),
            objective=spans,
            data=TextData(**{**vars(data), "sentinels": SENTINELS}),
            **common,
        ),
        "distilled": Experiment(
            model=mini,
            objective=Distillation(base=masked_lm),
            data=data,
            companions=(("teacher", "bert"),),
            **common,
        ),
    }


def fine_tuning() -> dict[str, FineTune]:
    """By the name of the folder."""
    common = {
        "init": "bert",
        "batch_size": 8,
        "steps": 4,
        "log_every": 1,
        "eval_every": 2,
        "save_every": 2,
        "launcher": Mesh(),
        "model": ModelChanges(dropout=0.0, attention_dropout=0.0),
    }
    files = lambda suffix: {"train": f"train.{suffix}", "eval": f"eval.{suffix}", "length": LENGTH}  # noqa: E731
    return {
        "texts": FineTune(
            task=TextClassification(pooling="cls"),
            data=LabelledData(**files("csv")),
            adapter=LoRA(rank=2),
            reuse_heads=("pooler",),
            **common,
        ),
        "words": FineTune(
            task=TokenClassification(),
            data=LabelledData(**files("jsonl"), text="tokens", label="tags"),
            adapter=Frozen(),
            **{**common, "best": ""},
        ),
    }


def losses(folder: Path) -> dict[str, float]:
    """Of the last training step and the last evaluation."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept: dict[str, float] = {}
    for line in lines:
        kept |= {name: v for name, v in line.items() if "second" not in name and name != "step"}
    return kept


def interrupt(folder: Path) -> None:
    """As a kill after step 2 of 4 would leave it."""
    for kind in ("checkpoints", "best"):
        for step in saved_steps(folder / kind):
            if step > 2:
                shutil.rmtree(folder / kind / str(step))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("".join(f"{x}\n" for x in lines if json.loads(x)["step"] <= 2))
    shutil.rmtree(folder / "tensorboard")
    here = f"{Path.cwd()}/"
    for mark in folder.rglob("commit_success.txt"):
        mark.write_text(mark.read_text().replace(here, ""))
    for kind in ("checkpoints", "best"):
        for step in saved_steps(folder / kind):
            write_hashes(folder / kind / str(step))


def record(name: str, values: dict[str, np.ndarray], at_the_end: dict[str, float]) -> None:
    """What the run gave: of step 2, and under after/ of step 4."""
    np.savez_compressed(
        f"{name}.npz", **values, **{f"after/{k}": np.float64(v) for k, v in at_the_end.items()}
    )


def configs(folder: Path) -> dict[str, object]:
    """What config.json of each shipped experiment would say of it."""
    described = {}
    for file in sorted(folder.glob("*.py")):
        value = load_config(str(file), object)
        if isinstance(value, Experiment):
            parts = {"model": encode(value.model), "objective": encode(value.objective)}
            described[file.stem] = {"experiment": encode(value), **parts}
        elif isinstance(value, FineTune):
            described[file.stem] = {"experiment": encode(value), "objective": encode(value.task.objective(("low", "high")))}
    return described


def main(target: str) -> None:
    """Write everything; DIR must not exist."""
    shipped = configs(Path("configs"))
    Path(target).mkdir(parents=True)
    os.environ["HANDOFF_CACHE"] = str(Path(target).absolute().with_name("cache"))
    os.chdir(target)
    Path("configs.json").write_text(json.dumps(shipped) + "\n")
    write_texts()
    for name, experiment in pretraining().items():
        batch = {f"batch/{k}": v for k, v in build(experiment).parts.stream.batch(1).items()}
        pretrain(experiment, Path(name))
        at_the_end = losses(Path(name))
        interrupt(Path(name))
        model = states.load(name)
        hidden = np.asarray(states.hidden_states(model, states.rows(model, TEXTS)))
        record(name, {"hidden": hidden, **batch}, at_the_end)
    for name, experiment in fine_tuning().items():
        batch = {f"batch/{k}": v for k, v in build_fine_tuning(experiment).parts.stream.batch(1).items()}
        fine_tune(experiment, Path(name))
        at_the_end = losses(Path(name))
        interrupt(Path(name))
        predicted = predict.predict(predict.load(name), TEXTS if name == "texts" else SENTENCES)
        answers = {"answers": np.array([json.dumps(vars(one)) for one in predicted])}
        record(name, {**answers, **batch}, at_the_end)
    pack(Path())


def pack(folder: Path) -> None:
    """Checkpoints are many small files: all runs' in one archive, which names no machine and no user."""
    with tarfile.open(folder / "checkpoints.tar.xz", "w:xz") as archive:
        for kind in ("checkpoints", "best"):
            for one in sorted(folder.glob(f"*/{kind}")):
                archive.add(one, one.relative_to(folder), filter=_unowned)
                shutil.rmtree(one)


def _unowned(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    return entry.replace(uid=0, gid=0, uname="", gname="", mtime=0, deep=False)


if __name__ == "__main__":
    main(sys.argv[1])
