"""What a block of this server is, and the check that both halves of the connector make before they use one."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.kv import KVSpec
from tokenworks.kv.client import KVClient
from tokenworks.kv.format import block_bytes, verify
from tokenworks.kv.protocol import Place

log = logging.getLogger(__name__)


def whole_block(client: KVClient, place: Place, spec: KVSpec) -> bytearray | None:
    """A private copy of a block that is what it should be and needs no conversion; None otherwise."""
    try:
        copy = bytearray(client.memory(place))
        header = verify(copy, place.name, spec.fingerprint)
    except TokenworksError as error:
        log.warning("a block was not used: %s", error)
        return None
    theirs = (header.dtype, header.num_layers, header.num_kv_heads, header.head_dim, header.block_tokens)
    ours = (spec.dtype, spec.num_layers, spec.num_kv_heads, spec.head_dim, spec.block_tokens)
    is_all = theirs == ours and not header.first_layer and not header.first_kv_head
    return copy if is_all and len(copy) == block_bytes(spec) else None


def kv_spec(vllm_config: Any, fingerprint: str) -> KVSpec:
    """What this server computes and holds; raises ValueError for what is not shared."""
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    if parallel.world_size != 1:
        raise ValueError("the connector shares KV of a server without tensor or pipeline parallelism only")
    spec = KVSpec(
        fingerprint=fingerprint,
        num_layers=model.get_num_layers(parallel),
        num_kv_heads=model.get_num_kv_heads(parallel),
        head_dim=model.get_head_size(),
        block_tokens=vllm_config.cache_config.block_size,
        dtype=str(model.dtype).removeprefix("torch."),
        numerics=f"vllm {model.dtype}",
    )
    return msgspec.convert(msgspec.to_builtins(spec), KVSpec)  # checks the types of what vLLM gave
