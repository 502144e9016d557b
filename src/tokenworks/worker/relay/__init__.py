"""A worker without an engine: passes requests on to any server with OpenAI's API."""

from tokenworks.worker.relay.process import relay, run_relay

__all__ = ["relay", "run_relay"]
