"""Which notebook makes what, for messages that say what to run first."""

from helpers.run import Run

WRITE = "01-create_dataset/01-write_conversations.ipynb"
PREPARE = "01-create_dataset/02-prepare_dataset.ipynb"
TRAIN = "02-fine_tune/02-train_adapters.ipynb"
ANSWER = "03-test/01-answer.ipynb"
SCORE = "03-test/02-score.ipynb"
OF_HOLDERS = {
    PREPARE: "01-create_dataset/03-join_private_records.ipynb",
    TRAIN: "02-fine_tune/03-train_privately.ipynb",
    ANSWER: "the command answer",
    SCORE: "the command score",
}


def maker(run: Run, usual: str) -> str:
    """What to run in place of a `usual` notebook, where the run is on holders' records."""
    return OF_HOLDERS[usual] if run.config.pipeline else usual
