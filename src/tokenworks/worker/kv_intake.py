"""Takes one block out of the store's arena into an engine's memory: copied, verified as that copy, converted, written.

The place may be another block's by the time it is read, or be written to meanwhile: only the copy is ever believed.
"""

from __future__ import annotations

from tokenworks.engine.engine import Engine
from tokenworks.kv.client import KVClient
from tokenworks.kv.convert import apply
from tokenworks.kv.format import HEADER_BYTES, BadBlock, BlockFault, Header, block_bytes, verify
from tokenworks.kv.negotiation import Refusal, negotiate
from tokenworks.kv.protocol import Place


class Intake:
    """One engine's; keeps room for one block."""

    def __init__(self, engine: Engine, client: KVClient) -> None:
        self._engine = engine
        self._client = client
        self._copy = bytearray(block_bytes(engine.spec))
        self._converted = memoryview(bytearray(engine.spec.bytes_per_block))

    def take(self, place: Place, block: int) -> None:
        """Write what stands in `place` to the engine's `block`.

        Raises BadBlock where it cannot be used, and TokenworksError for a place that is not in the arena.
        """
        if len(self._copy) < place.num_bytes:
            self._copy = bytearray(place.num_bytes)
        copy = memoryview(self._copy)[: place.num_bytes]
        copy[:] = self._client.memory(place)
        header = verify(copy, place.name, self._engine.spec.fingerprint)
        payload = copy[HEADER_BYTES : HEADER_BYTES + header.payload_bytes]
        self._engine.memory.write_block(block, self._as_ours(payload, header))

    def _as_ours(self, payload: memoryview, header: Header) -> memoryview:
        conversion = negotiate(header, self._engine.spec)
        if isinstance(conversion, Refusal):
            raise BadBlock(BlockFault.SPEC, f"block {header.name.hex()} cannot be used: {conversion.reason}")
        if conversion.is_copy and payload.nbytes == conversion.source_bytes:
            return payload
        apply(conversion, payload, self._converted)
        return self._converted
