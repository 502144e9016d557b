"""`tokenworks bench` as it is asked for; what it then does is in `drive`, imported when there is something to do."""

from __future__ import annotations

from typing import Any

import click

from tokenworks.bench.options import PAGE_WIDTH, GroupedCommand, as_url, bench_options


@click.command(cls=GroupedCommand, context_settings={"max_content_width": PAGE_WIDTH})
@click.argument("url", callback=as_url, default="http://127.0.0.1:8000")
@bench_options
@click.pass_context
def bench(context: click.Context, /, **options: Any) -> None:
    """Measure any OpenAI-compatible server: latency percentiles, throughput, goodput.

    URL is the server's address (default http://127.0.0.1:8000). Answers are streamed; every figure is what this
    client saw, and tokens are what the server's usage says. One small request goes first and is not measured.

    \b
    Examples:
      tokenworks bench --rate 4 --duration 60            a minute of Poisson traffic
      tokenworks bench --concurrency 32 --requests 500   as fast as 32 clients go
      tokenworks bench --rate 4 --slo-ttft-ms 500 --slo-tpot-ms 50
                                                         how much of it meets objectives
      tokenworks bench --trace conversation.jsonl.gz --length-scale 0.05 --rate-scale 0.2
                                                         real arrivals and prefixes, scaled down
      tokenworks bench --json - | jq .ttft_s.p99         one number for a script

    Exit code: 0 all succeeded, 1 some failed or were rejected, 2 usage or request refused, 3 server unreachable,
    130 interrupted (Ctrl-C still prints what was measured).
    """
    from tokenworks.bench.drive import drive

    context.exit(drive(options))
