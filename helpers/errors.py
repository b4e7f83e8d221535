"""What can go wrong, on one page.

Every error a reader can meet says what was wrong, what was received and what to do next. A command that
ends in one of these prints its message alone, without a traceback, and leaves with exit code 2.
"""


class HelpersError(Exception):
    """Root of the course's own errors; its message is written for the reader."""


class ConfigError(HelpersError):
    """The configuration holds one or more mistakes; the message lists all of them."""


class GlossaryError(HelpersError):
    """The glossary cannot be read, or an entry in it cannot be used."""


class EndpointError(HelpersError):
    """The chat endpoint is down, refused the request, or answered with something unusable."""


class UnreadableReply(EndpointError):
    """One request brought no usable reply; the message says why, and the caller may go on."""


class RequestRejected(UnreadableReply):
    """The server refused the request's content or format (400, 413, 422 or 501)."""


class RunError(HelpersError):
    """The run folder belongs to another configuration, lacks an input, or cannot be written."""


class ModelError(HelpersError):
    """A model, tokenizer or adapter cannot be found, loaded or fitted together."""


class TrainingError(HelpersError):
    """Training was refused by the preflight audit, or stopped because it cannot go on."""


class EvaluationError(HelpersError):
    """Answers or scores do not belong together, or a scorer cannot be used."""


class DataError(HelpersError):
    """A table, an address or private records cannot be used; a message about private records shows none of them."""


class PrivacyError(HelpersError):
    """A privacy guarantee cannot be given or cannot be shown to hold, so nothing is trained or released."""


class LedgerError(PrivacyError):
    """A holder's spend ledger is damaged, or has too little budget left for the run that asked."""
