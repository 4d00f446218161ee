"""Say which kind a list of vectors is."""

from finetune.experiment import FineTune, LabelledData
from tests.newcomer.vectors import ClassifyVectors
from train.launch import Mesh
from train.optimizer import Optimizer


def config():
    """Seconds on a CPU."""
    return FineTune(
        task=ClassifyVectors(),
        data=LabelledData(text="numbers", length=6, max_segments=1),
        optimizer=Optimizer(learning_rate=1e-2),
        launcher=Mesh(),
        steps=20,
        batch_size=8,
        eval_every=10,
        save_every=10,
    )
