"""What the supervisor writes for the person who started it: its own lines, its children's lines, what it waits for.

Everything goes to stderr but the address, which is what the command is for and goes to stdout. On a terminal the wait
shows as a moving line; elsewhere it is written once for each change.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.status import Status

from tokenworks.contract.auth import needs_key
from tokenworks.contract.config import Settings
from tokenworks.contract.folders import may_write, state_folder
from tokenworks.fleet.address import base_url
from tokenworks.fleet.json_lines import is_json_line, json_line


class FleetConsole:
    """Lines to a terminal or a log; safe to use from several threads. `is_json`: every line is one JSON object."""

    def __init__(self, console: Console | None = None, *, is_json: bool = False) -> None:
        self._console = console or Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
        self._status: Status | None = None
        self._awaited: Sequence[str] = ()
        self._is_json = is_json

    def say(self, text: str) -> None:
        """A line of the supervisor's own."""
        self.pass_on("tokenworks", text)

    def pass_on(self, name: str, line: str) -> None:
        """A line that a child wrote."""
        if not self._is_json:
            self._console.print(f"[{name}] {line}")
        elif line:
            self._console.print(line if is_json_line(line) else json_line(name, line))

    def wait_for(self, names: Sequence[str]) -> None:
        """Show who is not ready yet; nobody ends the showing."""
        if list(names) == list(self._awaited):
            return
        self._awaited = list(names)
        text = "waiting for " + ", ".join(names)
        if self._is_json or not self._console.is_terminal:
            if names:
                self.say(text)
        elif not names:
            self.close()
        elif self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._status is not None:
            self._status.stop()
            self._status = None
        self._awaited = ()

    def show_address(self, settings: Settings) -> None:
        """How to use what now runs; the moving line starts anew below it if somebody is still awaited."""
        self.close()
        print(usage(settings), flush=True)


def usage(settings: Settings) -> str:
    """The address, a command to paste, where to look, where the ledger is and how to stop."""
    base = base_url(settings.gateway.host, settings.gateway.port)
    body = json.dumps(
        {"model": settings.gateway.model_name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64}
    ).replace("'", "'\\''")
    return f"""
Tokenworks serves {settings.gateway.model_name} at {base}/v1

  curl {base}/v1/chat/completions \\
    -H 'Content-Type: application/json' \\{_key_header(settings)}
    -d '{body}'

{_key_advice(settings)}Watch it in a browser on this machine: {base}/dashboard
{_ledger(settings)}
Stop with Ctrl-C: open requests finish first; a second Ctrl-C stops at once.
"""


def _key_header(settings: Settings) -> str:
    return '\n    -H "Authorization: Bearer $TOKENWORKS_API_KEY" \\' if needs_key(settings.gateway) else ""


def _key_advice(settings: Settings) -> str:
    return (
        "Each request needs an API key: `tokenworks key add TENANT` makes one.\n" if needs_key(settings.gateway) else ""
    )


def _ledger(settings: Settings) -> str:
    folder = state_folder(settings.ledger)
    if folder is None:
        return "No ledger is kept: [ledger] is off."
    if not may_write(folder):
        return f"Nothing is recorded: {folder} cannot be written to; set path in [ledger] to one that can be."
    return f"Each request is recorded in {folder}: see `tokenworks table`."
