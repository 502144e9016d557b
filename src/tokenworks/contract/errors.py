"""Every way a request or a start-up can go wrong, in one small tree.

Each class is a sentence about one kind of failure. It carries what the outside sees: the HTTP status, the OpenAI error
`type` and `code`, and (for a bad request) the name of the parameter at fault. The gateway maps the tree to an HTTP
response in one place; the command line maps it to an exit message. Nothing else decides how an error looks.

Invariant: the message says what is wrong and, where a person can act, what to do.
"""

from __future__ import annotations

from typing import ClassVar


class TokenworksError(Exception):
    """Something failed; the base of every error that a user may see."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(TokenworksError):
    """The request is malformed or out of range."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class UnsupportedParameter(InvalidRequest):
    """The request asks for something that this system does not do."""

    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and wanted output do not fit the model's window."""

    code = "context_length_exceeded"


class PayloadTooLarge(InvalidRequest):
    """The request body is larger than the gateway reads."""

    status = 413
    code = "payload_too_large"


class MethodNotAllowed(InvalidRequest):
    """The path exists, but not for this HTTP method."""

    status = 405
    code = "method_not_allowed"


class NotFound(InvalidRequest):
    """No such path."""

    status = 404
    code = "not_found"


class Unauthorized(InvalidRequest):
    """The request bears no API key that is known here."""

    status = 401
    code = "invalid_api_key"


class Forbidden(InvalidRequest):
    """Not from where this request comes."""

    status = 403
    code = "forbidden"


class ModelNotFound(NotFound):
    """No pool serves the model that the request names."""

    code = "model_not_found"


class NotImplementedHere(InvalidRequest):
    """A known OpenAI endpoint that this system does not offer (yet)."""

    status = 501
    code = "not_implemented"


class Unavailable(TokenworksError):
    """No worker can take the request now; the client may try again."""

    status = 503
    type = "service_unavailable_error"
    code = "no_worker"


class Draining(Unavailable):
    """The system is shutting down and takes no new requests."""

    code = "draining"


class ObserverUnavailable(Unavailable):
    """The observer, which keeps the ledger and answers from it, cannot be asked now; requests are served as ever."""

    code = "observer_unavailable"


class WorkerLost(Unavailable):
    """The worker that ran the request died before the request ended."""

    status = 502
    code = "worker_lost"


class EngineFailed(TokenworksError):
    """The engine could not go on with this request."""

    code = "engine_failed"


class StartupError(TokenworksError):
    """A process cannot start; the message says why and what to do."""

    code = "startup_failed"


class PartNotStarted(StartupError):
    """A part of the system ended before it was ready, and the system with it."""

    code = "part_not_started"

    def __init__(self, message: str, part: str, reason: str) -> None:
        super().__init__(message)
        self.part = part
        self.reason = reason


class ConfigError(StartupError):
    """The configuration is wrong: unknown key, bad value, unreadable file."""

    code = "config_error"


class CheckpointError(StartupError):
    """The checkpoint directory cannot be served."""

    code = "checkpoint_error"


class LedgerError(TokenworksError):
    """The ledger cannot be read or written."""

    code = "ledger_error"


class LedgerBusy(LedgerError):
    """The ledger cannot be used now; the next moment it may."""

    status = 503
    code = "ledger_busy"


class LedgerDamaged(LedgerError):
    """The ledger's database is none, or is no longer whole."""

    code = "ledger_damaged"


class LedgerMissing(LedgerError):
    """There is no ledger there, or none yet."""

    code = "ledger_missing"


class LedgerTooNew(LedgerError):
    """The ledger was written by a newer version of this program."""

    code = "ledger_too_new"
