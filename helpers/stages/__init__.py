"""The door: each stage of the course takes a run folder, reads its configuration and calls plain functions.

A stage that has finished on the same inputs is not done again; one that was killed goes on where it stopped.
Notebooks and the command line call these same functions. Heavy modules are imported by the stage that needs them.
"""

from helpers.stages.common import PREPARE, chat_endpoint, glossary_entries, pipeline_of
from helpers.stages.data import create, export, prepare, preview
from helpers.stages.language import make_pack
from helpers.stages.models import answer, ask, fine_tune, in_context, longest_answer
from helpers.stages.results import report, score

__all__ = [
    "PREPARE",
    "answer",
    "ask",
    "chat_endpoint",
    "create",
    "export",
    "fine_tune",
    "glossary_entries",
    "in_context",
    "longest_answer",
    "make_pack",
    "pipeline_of",
    "prepare",
    "preview",
    "report",
    "score",
]
