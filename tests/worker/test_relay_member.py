"""A relay between a gateway (here: a bare socket that says what one would say) and a scripted foreign server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import zmq

from tests.foreign_server import PATIENCE_S, ForeignServer, RunningRelay
from tokenworks.contract import wire
from tokenworks.contract.errors import StartupError
from tokenworks.contract.record import Stage, Work
from tokenworks.contract.request import Request, Sampling
from tokenworks.contract.wire import EndReason, SequenceOutput
from tokenworks.fleet.launch import EMBEDDED_MODEL
from tokenworks.text.tokenizer import load_tokenizer
from tokenworks.worker.relay import member, process

Foreign = Callable[..., ForeignServer]
PROMPT = [300, 310]


class Gateway:
    """A ROUTER socket; keeps what one relay says."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.address = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.messages: list[wire.ToGateway] = []
        self._socket = socket
        self._identity = b""

    def send(self, message: wire.Message) -> None:
        self._socket.send_multipart((self._identity, wire.encode(message)))

    def submit(self, request_id: str, **sampling: Any) -> None:
        found = Sampling(**{"max_tokens": 4, "temperature": 0.0, **sampling})
        self.send(wire.Submit(Request(request_id, "", PROMPT, found)))

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Read until something holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain; so far: {self.messages}"
            if self._socket.poll(20):
                self._receive()

    def _receive(self) -> None:
        self._identity, frame = self._socket.recv_multipart()
        self.messages.append(wire.decode_to_gateway(frame))

    def kinds(self) -> list[str]:
        """What came, but for heartbeats."""
        return [type(message).__name__ for message in self.messages if not isinstance(message, wire.Heartbeat)]

    def outputs(self, request_id: str) -> list[SequenceOutput]:
        found = [each for message in self.messages if isinstance(message, wire.StepOutput) for each in message.outputs]
        return [output for output in found if output.request_id == request_id]

    def end(self, request_id: str) -> wire.End:
        """Waits for it."""
        self.wait_for(lambda: any(output.end for output in self.outputs(request_id)))
        [end] = [output.end for output in self.outputs(request_id) if output.end is not None]
        return end

    def load(self) -> wire.Load:
        """A fresh one: of those that come from now on, the first may have been on its way already."""
        while self._socket.poll(0):
            self._receive()
        num_old = len(self._beats())
        self.wait_for(lambda: len(self._beats()) > num_old + 1)
        return self._beats()[-1].load

    def _beats(self) -> list[wire.Heartbeat]:
        return [message for message in self.messages if isinstance(message, wire.Heartbeat)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(member, "BEAT_S", 0.1)
    monkeypatch.setattr(process, "RETRY_S", 0.1)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind("tcp://127.0.0.1:*")
        yield Gateway(socket)


@pytest.fixture
def server(foreign: Foreign) -> ForeignServer:
    return foreign()


@pytest.fixture
def relay(gateway: Gateway, server: ForeignServer, relays: list[RunningRelay]) -> RunningRelay:
    """One that has said hello."""
    relays.append(RunningRelay(str(EMBEDDED_MODEL), gateway.address, server.url))
    gateway.wait_for(lambda: "Hello" in gateway.kinds())
    server.bodies.clear()
    return relays[0]


def plain(end: wire.End) -> wire.End:
    """Without what it took, which no two requests take alike."""
    assert end.report is not None
    return msgspec.structs.replace(end, report=None)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_it_says_hello_as_any_worker_but_without_kv(gateway: Gateway, relay: RunningRelay) -> None:
    hello = gateway.messages[0]
    assert isinstance(hello, wire.Hello)
    assert (hello.worker_id, hello.kv, hello.max_context_tokens) == ("w0", None, 200)
    assert hello.protocol == wire.PROTOCOL
    assert hello.card.decode_points
    gateway.wait_for(lambda: any(isinstance(message, wire.Heartbeat) for message in gateway.messages))


def test_it_passes_ids_there_and_back(gateway: Gateway, relay: RunningRelay, server: ForeignServer) -> None:
    gateway.submit("r")
    assert gateway.end("r").reason is EndReason.LENGTH
    assert [token for output in gateway.outputs("r") for token in output.token_ids] == [301, 311, 301, 311]
    [body] = server.bodies
    assert (body["prompt"], body["max_tokens"], body["temperature"]) == (PROMPT, 4, 0.0)


def test_log_probabilities_are_passed_on(gateway: Gateway, relay: RunningRelay) -> None:
    gateway.submit("r", num_logprobs=2)
    gateway.end("r")
    assert gateway.outputs("r")[0].logprobs == [wire.TokenLogprobs(-0.5, [301, 302], [-0.5, -1.5])]


def test_the_load_is_what_is_open(gateway: Gateway, relay: RunningRelay, server: ForeignServer) -> None:
    server.max_events = 1
    gateway.submit("a")
    gateway.wait_for(lambda: gateway.outputs("a"))
    server.max_events = 0
    gateway.submit("b")
    wait_until(lambda: server.num_open == 2)
    load = gateway.load()
    assert (load.running, load.waiting) == (1, 1)


def test_a_cancel_closes_the_connection(gateway: Gateway, relay: RunningRelay, server: ForeignServer) -> None:
    server.max_events = 1
    gateway.submit("r", max_tokens=50)
    gateway.wait_for(lambda: gateway.outputs("r"))
    assert server.num_open == 1
    gateway.send(wire.Cancel("r"))
    gateway.send(wire.Cancel("never heard of"))
    wait_until(lambda: server.num_open == 0)
    end = gateway.end("r")
    assert gateway.load().running == 0
    assert end.reason is EndReason.CANCELLED
    assert end.report is not None
    assert end.report.stages_ns.keys() == {Stage.PREFILL, Stage.DECODE}
    assert not gateway.outputs("never heard of")


def test_what_requests_took_is_what_the_server_was_busy(
    gateway: Gateway, relay: RunningRelay, server: ForeignServer
) -> None:
    for request_id in ("a", "b"):
        gateway.submit(request_id, max_tokens=20)
    reports = [gateway.end(request_id).report for request_id in ("a", "b")]
    server.status = 500
    gateway.submit("refused")
    reports.append(gateway.end("refused").report)
    use = gateway.load().use
    taken = [report.device_ns.get(work, 0) for report in reports if report for work in Work]
    assert sum(taken) == sum(use.step_ns.values()) > 0
    assert use.wall_ns == sum(use.step_ns.values()) + use.idle_ns
    assert use.energy_j is None
    assert use.rss_bytes > 0


def test_a_stop_token_of_ours_closes_the_connection(
    gateway: Gateway, relay: RunningRelay, server: ForeignServer
) -> None:
    server.max_events = 2
    gateway.submit("r", max_tokens=50, stop_token_ids=(311,))
    assert plain(gateway.end("r")) == wire.End(EndReason.STOP, stop_token_id=311)
    wait_until(lambda: server.num_open == 0)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_a_refusal_and_stays_a_member(
    gateway: Gateway, relay: RunningRelay, server: ForeignServer, status: int
) -> None:
    server.status, server.message = status, "too many requests"
    gateway.submit("r")
    end = gateway.end("r")
    assert (end.reason, end.param) == (EndReason.REFUSED, None)
    assert "too many requests" in str(end.error)
    server.status = None
    gateway.submit("s")
    assert gateway.end("s").reason is EndReason.LENGTH
    assert "Leaving" not in gateway.kinds()


def test_the_servers_word_on_a_bad_request_is_passed_on(
    gateway: Gateway, relay: RunningRelay, server: ForeignServer
) -> None:
    server.status, server.message = 400, "the context is 200 tokens, you asked for 201"
    gateway.submit("r")
    assert plain(gateway.end("r")) == wire.End(EndReason.REFUSED, error=server.message, param="prompt")


@pytest.mark.parametrize("status", [401, 500])
def test_a_broken_server_is_a_refusal_while_nothing_was_shown(
    gateway: Gateway, relay: RunningRelay, server: ForeignServer, status: int
) -> None:
    server.status = status
    gateway.submit("r")
    assert gateway.end("r").reason is EndReason.REFUSED


async def _nonsense(response: Any) -> None:
    await response.write(b"data: <html>\n\n")


async def _cut(response: Any) -> None:
    return


@pytest.mark.parametrize(("then", "message"), [(_nonsense, "<html>"), (_cut, "cut the answer short")])
@pytest.mark.parametrize(("shown", "reason"), [(0, EndReason.REFUSED), (2, EndReason.FAILED)])
def test_a_server_that_talks_nonsense_fails_that_request_alone(
    gateway: Gateway,
    relay: RunningRelay,
    server: ForeignServer,
    then: Callable[..., Any],
    message: str,
    shown: int,
    reason: EndReason,
) -> None:
    server.max_events, server.then = shown, then
    gateway.submit("r", max_tokens=50)
    end = gateway.end("r")
    assert end.reason is reason
    assert message in str(end.error)
    server.max_events = None
    gateway.submit("s")
    assert gateway.end("s").reason is EndReason.LENGTH


@pytest.mark.parametrize("shown", [0, 1])
def test_a_server_that_dies_leaves_the_pool_until_it_is_back(
    gateway: Gateway, relay: RunningRelay, server: ForeignServer, shown: int
) -> None:
    server.max_events = shown
    gateway.submit("r", max_tokens=50)
    wait_until(lambda: server.num_open == 1)
    gateway.wait_for(lambda: len(gateway.outputs("r")) == shown)
    server.stop()
    gateway.wait_for(lambda: "Goodbye" in gateway.kinds())
    assert not any(output.end for output in gateway.outputs("r"))  # the gateway sends it on, as of any lost worker
    gateway.submit("s")
    assert gateway.end("s").reason is EndReason.REFUSED
    gateway.messages.clear()
    server.max_events = None
    server.start()
    gateway.wait_for(lambda: "Hello" in gateway.kinds())
    gateway.submit("t")
    assert gateway.end("t").reason is EndReason.LENGTH


def test_a_refused_connection_shows_that_the_server_is_down(
    gateway: Gateway, relay: RunningRelay, server: ForeignServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "LOOK_EVERY_S", 1000.0)
    time.sleep(0.2)  # the look that is under way
    server.stop()
    gateway.submit("r")
    gateway.wait_for(lambda: "Goodbye" in gateway.kinds())
    assert gateway.outputs("r") == []


def test_a_bug_in_one_look_does_not_end_the_looking(
    gateway: Gateway,
    relay: RunningRelay,
    server: ForeignServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(upstream: Any) -> Any:
        return 1 // 0

    with monkeypatch.context() as patch:
        patch.setattr("tokenworks.worker.relay.upstream.Upstream.models", fails)
        wait_until(lambda: "_watch failed: this is a bug" in caplog.text)
    server.stop()
    gateway.wait_for(lambda: "Goodbye" in gateway.kinds())


def test_an_unanswered_look_is_no_death_while_there_are_signs_of_life(
    gateway: Gateway, relay: RunningRelay, server: ForeignServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(upstream: Any) -> Any:
        raise member.UpstreamError("timeout")

    monkeypatch.setattr("tokenworks.worker.relay.upstream.Upstream.models", fails)
    gateway.load()
    gateway.load()
    gateway.load()
    assert "Goodbye" not in gateway.kinds()
    monkeypatch.setattr(member, "PATIENCE_S", 0.0)
    gateway.wait_for(lambda: "Goodbye" in gateway.kinds())


def test_a_gateway_that_lost_its_memory_gets_a_new_hello(
    gateway: Gateway, relay: RunningRelay, server: ForeignServer
) -> None:
    server.max_events = 1
    gateway.submit("r", max_tokens=50)
    gateway.wait_for(lambda: gateway.outputs("r"))
    gateway.messages.clear()
    gateway.send(wire.Rejoin())
    gateway.wait_for(lambda: "Hello" in gateway.kinds())
    wait_until(lambda: server.num_open == 0)


def test_a_drain_finishes_what_there_is_and_refuses_the_rest(
    gateway: Gateway, relay: RunningRelay, server: ForeignServer
) -> None:
    server.max_events = 1
    gateway.submit("r", max_tokens=50)
    gateway.wait_for(lambda: gateway.outputs("r"))
    relay.begin_drain()
    gateway.wait_for(lambda: "Leaving" in gateway.kinds())
    gateway.submit("s")
    assert gateway.end("s").reason is EndReason.REFUSED
    gateway.send(wire.Cancel("r"))
    gateway.wait_for(lambda: "Goodbye" in gateway.kinds())
    assert relay.wait() is None


def test_a_prefill_for_somebody_else_is_refused(gateway: Gateway, relay: RunningRelay) -> None:
    gateway.send(wire.Submit(Request("r", "", PROMPT, Sampling(max_tokens=1)), publishes=True))
    assert gateway.end("r").reason is EndReason.REFUSED


def test_text_for_a_server_that_takes_nothing_else(
    gateway: Gateway, foreign: Foreign, relays: list[RunningRelay]
) -> None:
    server = foreign(takes_ids=False, knows=())
    relays.append(RunningRelay(str(EMBEDDED_MODEL), gateway.address, server.url))
    gateway.wait_for(lambda: "Hello" in gateway.kinds())
    server.bodies.clear()
    tokenizer = load_tokenizer(EMBEDDED_MODEL)
    gateway.submit("r", stop_token_ids=tokenizer.eos_token_ids)
    assert gateway.end("r").reason is EndReason.LENGTH
    prompt = tokenizer.decode(PROMPT)
    assert "".join(output.text or "" for output in gateway.outputs("r")) == (prompt.upper() * 4)[:4]
    assert sum(output.text_tokens for output in gateway.outputs("r")) == 4
    gateway.submit("s", stop_token_ids=())
    assert gateway.end("s").param == "ignore_eos"


def start_error(gateway: Gateway, url: str, **group: Any) -> BaseException | None:
    return RunningRelay(str(EMBEDDED_MODEL), gateway.address, url, **group).wait()


def test_nobody_there_at_start_says_what_to_do(gateway: Gateway, server: ForeignServer) -> None:
    server.stop()
    error = start_error(gateway, server.url)
    assert isinstance(error, StartupError)
    assert "start that server first" in error.message


def test_a_server_that_is_loading_is_waited_for(
    gateway: Gateway, server: ForeignServer, relays: list[RunningRelay]
) -> None:
    server.status = 503
    relays.append(RunningRelay(str(EMBEDDED_MODEL), gateway.address, server.url))
    wait_until(lambda: len(server.bodies) > 2)
    server.status = None
    gateway.wait_for(lambda: "Hello" in gateway.kinds())


def test_a_server_that_is_loading_for_ever_is_given_up(
    gateway: Gateway, server: ForeignServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOADING_S", 0.2)
    server.status = 503
    error = start_error(gateway, server.url)
    assert isinstance(error, StartupError)
    assert "waited for in vain" in error.message


def test_what_cannot_work_is_said_at_start(
    gateway: Gateway, server: ForeignServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    for group, words in (
        ({"role": "prefill"}, "no KV to publish"),
        ({"key_variable": "NO_SUCH_KEY"}, "NO_SUCH_KEY, which is not set"),
        ({"upstream_model": "other"}, "set `upstream_model` to one of: scripted"),
    ):
        error = start_error(gateway, server.url, **group)
        assert isinstance(error, StartupError)
        assert words in error.message


def test_the_api_key_goes_with_every_request(
    gateway: Gateway, server: ForeignServer, relays: list[RunningRelay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", "secret")
    relays.append(RunningRelay(str(EMBEDDED_MODEL), gateway.address, server.url, key_variable="SERVER_KEY"))
    gateway.wait_for(lambda: "Hello" in gateway.kinds())
    assert server.keys == {"Bearer secret"}
