"""Which notebook makes what, for messages that say what to run first."""

WRITE = "01-create_dataset/01-write_conversations.ipynb"
PREPARE = "01-create_dataset/02-prepare_dataset.ipynb"
TRAIN = "02-fine_tune/02-train_adapters.ipynb"
ANSWER = "03-test/01-answer.ipynb"
SCORE = "03-test/02-score.ipynb"
