"""Whether the servers that `[[workers]]` names answer from this machine, and serve what is wanted of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from tokenworks.contract.config import Settings, WorkerGroup
from tokenworks.contract.errors import StartupError
from tokenworks.contract.worker_groups import groups_of
from tokenworks.fleet.finding import Finding, Verdict
from tokenworks.worker.relay.learn import pick_model
from tokenworks.worker.relay.process import api_key
from tokenworks.worker.relay.upstream import UpstreamBusy, UpstreamDown, UpstreamError, open_upstream

PATIENCE_S: Final = 10.0


def check_servers(settings: Settings) -> Iterator[Finding]:
    """One finding for each entry of runs = "openai": `serve` does not start where such a server is not there."""
    for group in groups_of(settings):
        if group.runs == "openai":
            yield _check(group)


def _check(group: WorkerGroup) -> Finding:
    try:
        model = asyncio.run(asyncio.wait_for(_listed_model(group), PATIENCE_S))
    except TimeoutError:
        return Finding("server", Verdict.FAIL, f"{group.url} says nothing for {PATIENCE_S:.0f} s", "look at its log")
    except UpstreamBusy as error:
        return Finding("server", Verdict.WARN, error.message, "it is waited for: ten minutes at most")
    except UpstreamDown as error:
        return Finding("server", Verdict.FAIL, error.message, "start that server first, or correct its `url`")
    except (UpstreamError, StartupError) as error:
        return Finding("server", Verdict.FAIL, error.message, "correct its entry in [[workers]]")
    return Finding("server", Verdict.OK, f"{group.url} answers, and serves {model}")


async def _listed_model(group: WorkerGroup) -> str:
    async with open_upstream(group.url, api_key(group)) as upstream:
        return pick_model(await upstream.models(), group.upstream_model, group.url).id
