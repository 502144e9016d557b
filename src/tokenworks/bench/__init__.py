"""The load client: `tokenworks bench` measures any OpenAI-compatible server.

Reading order: arrivals (what and when), prompts (which bytes), stream and client (one request), run (many requests),
measure (figures), report (page and JSON), command (the order of it all). Imports `plan.traces` of ours; never torch.
"""

from tokenworks.bench.command import bench
from tokenworks.bench.measure import Objectives, RequestResult, Summary, summarise

__all__ = ["Objectives", "RequestResult", "Summary", "bench", "summarise"]
