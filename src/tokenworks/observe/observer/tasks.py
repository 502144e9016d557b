"""What the observer does beside taking in the journal: each task is a coroutine, and this list is all of them.

A task runs from the start to the end of the process. One that raises is told of and begun again, and stops nobody else;
at the end every task is cancelled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tokenworks.observe.alerting.alerts import look_out
from tokenworks.observe.chains.span_tasks import export_spans
from tokenworks.observe.observer.api import answer_questions
from tokenworks.observe.observer.context import ObserverContext

Task = Callable[[ObserverContext], Awaitable[None]]

TASKS: list[Task] = [
    answer_questions,
    look_out,
    export_spans,
]
