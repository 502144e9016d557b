"""What the gateway costs: milliseconds added between engine and client, and requests per second per core.

A real gateway process stands before a worker process that answers at once (one token a step, no step takes any time).
The same request is timed through the gateway and, without one, from this process to such a worker over ZeroMQ; the
difference is what the gateway adds. Requests per core second are requests over the CPU time of the gateway process,
all its threads included, while a closed loop of connections keeps it busy.

    .venv/bin/python benchmarks/gateway.py --prompt-tokens 1000 --output-tokens 1

What recording takes of it: `benchmarks/recording.py`.

Prints a table and one JSON line. Run it on an idle machine: client, gateway and worker need a core each to be out of
each other's way, and with fewer the milliseconds include waiting for a core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Final

import zmq

from tokenworks.contract import wire
from tokenworks.contract.card import Card
from tokenworks.contract.config import GatewaySettings, LedgerSettings, Settings
from tokenworks.contract.kv import KVSpec
from tokenworks.contract.record import SequenceReport, Stage, Work
from tokenworks.contract.request import Request, Sampling
from tokenworks.contract.wire import End, EndReason, SequenceOutput
from tokenworks.text.tokenizer import Tokenizer, load_tokenizer

EMBEDDED: Final = Path(__file__).resolve().parents[1] / "src/tokenworks/embedded"
WINDOW: Final = 1 << 16
REPORT: Final = SequenceReport(
    stages_ns={Stage.QUEUE: 10, Stage.PREFILL: 20, Stage.DECODE: 30, Stage.STALL: 10},  # no step takes any time
    device_ns={Work.PREFILL: 20, Work.DECODE: 30},
    steps=20,
    prefill_chunks=2,
    computed_tokens=1000,
    kv_byte_s=1e9,
)


def main() -> None:
    """Run one of the three roles; without a role, the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--role", choices=["measure", "gateway", "worker"], default="measure", help=argparse.SUPPRESS)
    parser.add_argument("--address", default="", help=argparse.SUPPRESS)
    parser.add_argument("--model", default=str(EMBEDDED), help="checkpoint directory whose tokenizer is used")
    parser.add_argument("--prompt-tokens", type=int, default=1000)
    parser.add_argument("--output-tokens", type=int, default=1)
    parser.add_argument("--requests", type=int, default=1000, help="requests of each measurement")
    parser.add_argument("--connections", type=int, default=16, help="connections of the closed loop")
    options = parser.parse_args()
    {"measure": measure, "gateway": be_gateway, "worker": be_worker}[options.role](options)


def be_gateway(options: argparse.Namespace) -> None:
    """The process under test."""
    from tokenworks.gateway.process import run_gateway

    own = GatewaySettings(port=0, worker_address=options.address, model_name="bench")
    settings = Settings(model=options.model, gateway=own, ledger=LedgerSettings(path="off"))
    run_gateway(settings, on_ready=lambda host, port: print(port, flush=True))


def be_worker(options: argparse.Namespace, report: Callable[[], SequenceReport | None] = lambda: REPORT) -> None:
    """Answer every request at once, one frame a token; `report` is what it tells that the sequence took."""
    line: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    line.connect(options.address)
    card = Card("instant", 1, "float32", "float32", 1, 1, "float32", 1, 1, (), (), 0, 0, 0, 0, 0, 0)
    spec = KVSpec("instant", 1, 1, 1, 32, "float32")
    line.send(wire.encode(wire.Hello(wire.PROTOCOL, "w0", os.getpid(), "bench", WINDOW, spec, card)))
    last_beat_s = 0.0
    while True:
        if time.monotonic() - last_beat_s > 1:
            last_beat_s = time.monotonic()
            line.send(wire.encode(wire.Heartbeat("w0", wire.Load(0, 0, 1, 1, 0, 0, 0, 0))))
        if line.poll(1000):
            message = wire.decode_to_worker(line.recv())
            if isinstance(message, wire.Submit):
                for output in answer(message.request, report()):
                    line.send(wire.encode(wire.StepOutput([output])))


def answer(request: Request, report: SequenceReport | None) -> Iterator[SequenceOutput]:
    """As many tokens as asked for."""
    for left in reversed(range(request.sampling.max_tokens)):
        end = None if left else End(EndReason.LENGTH, report=report)
        yield SequenceOutput(request.id, [request.token_ids[left % 64]], end=end)


@contextmanager
def role(name: str, options: argparse.Namespace, address: str) -> Iterator[subprocess.Popen[str]]:
    """Another process of this script."""
    command = [sys.executable, __file__, "--role", name, "--address", address, "--model", options.model]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def measure(options: argparse.Namespace) -> None:
    """Print what the gateway costs for each form of prompt, streamed and whole."""
    prompts = prompt_forms(load_tokenizer(options.model), options.prompt_tokens)
    direct = direct_ms(options, prompts["token ids"])
    address = f"ipc:///tmp/tokenworks-bench-{os.getpid()}"
    rows = []
    with role("gateway", options, address) as gateway, role("worker", options, address):
        assert gateway.stdout is not None
        port = int(gateway.stdout.readline())
        for form, prompt in prompts.items():
            for stream in (True, False):
                name = f"{form}, {'streamed' if stream else 'whole'}"
                request = request_bytes(prompt, options.output_tokens, stream)
                rows.append(measure_form(options, gateway.pid, port, direct, name, request))
    report(options, direct, rows)


def prompt_forms(tokenizer: Tokenizer, num_tokens: int) -> dict[str, Any]:
    """A prompt of that many tokens of English prose, as text and as ids."""
    prose = "\n".join(topics.values())
    token_ids = tokenizer.encode(prose[: 10 * num_tokens], add_special_tokens=False)[:num_tokens]
    return {"text": tokenizer.decode(token_ids), "token ids": token_ids}


def measure_form(
    options: argparse.Namespace, pid: int, port: int, direct: Sequence[float], name: str, request: bytes
) -> dict[str, Any]:
    """One row of the table."""
    wait_until_ready(port)
    through = one_by_one_ms(port, request, options.requests)
    cpu_before_s, started_s = cpu_s(pid), time.monotonic()
    asyncio.run(closed_loop(port, request, options.requests, options.connections))
    cpu, wall_s = cpu_s(pid) - cpu_before_s, time.monotonic() - started_s
    return {
        "prompt": name,
        "p50_ms": quantile(through, 0.5),
        "p99_ms": quantile(through, 0.99),
        "added_p50_ms": quantile(through, 0.5) - quantile(direct, 0.5),
        "added_p99_ms": quantile(through, 0.99) - quantile(direct, 0.99),
        "requests_per_core_second": options.requests / cpu,
        "requests_per_second": options.requests / wall_s,
    }


def direct_ms(options: argparse.Namespace, token_ids: list[int]) -> list[float]:
    """Milliseconds of each request from this process to an instant worker, without a gateway."""
    address = f"ipc:///tmp/tokenworks-direct-{os.getpid()}"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as line, role("worker", options, address):
        line.bind(address)
        identity, _ = line.recv_multipart()
        return [one_direct_ms(line, identity, token_ids, options.output_tokens) for _ in range(options.requests)]


def one_direct_ms(line: zmq.Socket[bytes], identity: bytes, token_ids: list[int], output_tokens: int) -> float:
    started_s = time.perf_counter()
    request = Request("direct", "bench", token_ids, Sampling(max_tokens=output_tokens))
    line.send_multipart([identity, wire.encode(wire.Submit(request))])
    while True:
        message = wire.decode_to_gateway(line.recv_multipart()[1])
        if isinstance(message, wire.StepOutput) and message.outputs[-1].end is not None:
            return (time.perf_counter() - started_s) * 1000


def request_bytes(prompt: Any, output_tokens: int, stream: bool) -> bytes:
    """The request as it goes over the wire."""
    options = {"model": "bench", "prompt": prompt, "max_tokens": output_tokens, "stream": stream, "ignore_eos": True}
    body = json.dumps(options).encode()
    return b"POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def is_complete(answered: bytes) -> bool:
    """Whether a whole answer is there; raises where it is not a success."""
    assert answered.startswith(b"HTTP/1.1 200"[: len(answered)]), answered
    head, _, body = answered.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return bool(length) and len(body) == int(length)


def one_by_one_ms(port: int, request: bytes, num: int) -> list[float]:
    """Milliseconds from sending each request to the last byte of its answer, one request at a time."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return [one_ms(connection, request) for _ in range(num)]


def one_ms(connection: socket.socket, request: bytes) -> float:
    started_s = time.perf_counter()
    connection.sendall(request)
    answered = b""
    while not is_complete(answered):
        answered += connection.recv(1 << 16)
    return (time.perf_counter() - started_s) * 1000


async def closed_loop(port: int, request: bytes, num: int, connections: int) -> None:
    """Send that many requests over that many connections as fast as they are answered."""
    left = iter(range(num))

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            writer.write(request)
            answered = b""
            while not is_complete(answered):
                answered += await reader.read(1 << 16)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(connections)))


def wait_until_ready(port: int) -> None:
    """Until the worker has joined."""
    answered = b""
    while not answered.startswith(b"HTTP/1.1 200"):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"GET /health/ready HTTP/1.1\r\nHost: bench\r\n\r\n")
            answered = connection.recv(1 << 16)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, all its threads that live; proc(5): the first number is nanoseconds."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def report(options: argparse.Namespace, direct: Sequence[float], rows: Sequence[dict[str, Any]]) -> None:
    """The table, then everything as one JSON line."""
    print(f"{options.prompt_tokens} prompt tokens, {options.output_tokens} output tokens, {os.cpu_count()} CPUs")
    print(f"direct to the worker: P50 {quantile(direct, 0.5):.2f} ms, P99 {quantile(direct, 0.99):.2f} ms")
    print(f"{'prompt':22} {'added P50':>10} {'added P99':>10} {'req/s/core':>11} {'req/s':>8}")
    for row in rows:
        print(
            f"{row['prompt']:22} {row['added_p50_ms']:7.2f} ms {row['added_p99_ms']:7.2f} ms "
            f"{row['requests_per_core_second']:11.0f} {row['requests_per_second']:8.0f}"
        )
    head = {"prompt_tokens": options.prompt_tokens, "output_tokens": options.output_tokens, "cpus": os.cpu_count()}
    print(json.dumps({**head, "direct_p50_ms": quantile(direct, 0.5), "rows": rows}))


if __name__ == "__main__":
    main()
