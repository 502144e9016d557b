"""Clients that ask again and again, and note on their side what was answered, and when."""

from __future__ import annotations

import http.client
import json
import threading
import time
from random import Random
from typing import Final, NamedTuple

PAUSE_S: Final = (0.0, 0.06)
TOKENS: Final = 4
_TIMEOUT_S: Final = 60.0
_AWAY_S: Final = 0.2  # before the next try, where nobody listens or there is no worker


class Answer(NamedTuple):
    """One that came whole."""

    request_id: str
    sent_s: float  # monotonic, as is the next
    at_s: float  # when the client had its last byte
    tokens: int


class Client(threading.Thread):
    """Asks one request after the other until stopped, each under a name of its own."""

    def __init__(self, name: str, port: int, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self.asked: list[str] = []
        self.answers: list[Answer] = []
        self.num_refused = 0
        self._port = port
        self._random = Random(seed)
        self._stopping = threading.Event()
        self._connection = self._connected()

    def stop(self) -> None:
        """Let the request that is under way end."""
        self._stopping.set()
        self.join()
        self._connection.close()

    def run(self) -> None:
        while not self._stopping.is_set():
            request_id = f"{self.name}-{len(self.asked)}"
            self.asked.append(request_id)
            sent_s = time.monotonic()
            try:
                self._note(request_id, sent_s, self._ask(request_id))
            except (OSError, http.client.HTTPException, ValueError):
                self._connection.close()
                self._connection = self._connected()
                self._stopping.wait(_AWAY_S)

    def _note(self, request_id: str, sent_s: float, tokens: int) -> None:
        if tokens:
            self.answers.append(Answer(request_id, sent_s, time.monotonic(), tokens))
            self._stopping.wait(self._random.uniform(*PAUSE_S))
        else:
            self.num_refused += 1
            self._stopping.wait(_AWAY_S)

    def _ask(self, request_id: str) -> int:
        """Output tokens; 0: it was refused."""
        body = {"prompt": [5, 6, 7, len(self.asked) % 500], "max_tokens": TOKENS, "ignore_eos": True}
        headers = {"content-type": "application/json", "x-request-id": request_id}
        self._connection.request("POST", "/v1/completions", json.dumps(body), headers)
        response = self._connection.getresponse()
        told = json.loads(response.read())
        return int(told["usage"]["completion_tokens"]) if response.status == 200 else 0

    def _connected(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=_TIMEOUT_S)
