"""The load client: `tokenworks bench` measures any OpenAI-compatible server.

Reading order: arrivals (what and when), prompts (which bytes), stream and client (one request), run (many requests),
measure (figures), report (page and JSON), drive (the order of it all), command (what can be asked). Imports
`plan.traces` of ours; never torch.
"""
