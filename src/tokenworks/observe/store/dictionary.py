"""What bodies in the database are compressed against: the names that were in them when form 1 was fixed.

Never changed: every body of form 1 that was ever written needs these very bytes. Names that came later only compress
less well; a new dictionary is a new form, beside this one.
"""

from __future__ import annotations

from typing import Final

import msgspec

_NAMES: Final = """
    service name duration_ns is_error attributes subject text from_ns until_ns frames store used_bytes limit_bytes
    hits evictions faults misses wall_ns step_ns between_ns idle_ns flops read_bytes cpu_s rss_bytes disk_read_bytes
    disk_write_bytes energy_j at_ns use peak_flops peak_bytes_per_s running waiting free_blocks total_blocks is_last
    requests rejected timeouts gone failed good sequences good_tokens retries migrations cost_device cost_kv
    cost_transfer cost_energy cost_wasted cost_saved sketches kv transfer energy saved device_ns steps
    prefill_chunks computed_tokens recomputed_tokens draft_tokens rejected_tokens preemptions kv_byte_s
    fetched_bytes published_bytes worker sequence kind reason start_ns span_ns predicted_ns saved_ns report
    price_per_hour watts id started_ns e2e_ns tenant model scenario outcome status gateway key version endpoint
    is_stream trace_id span_id parent_span_id tags num_sequences prompt_tokens cached_tokens output_tokens
    finish_reasons mean_logprob ttft_ns gaps_us stages_ns legs record type ok whole stop length online
    /v1/completions /v1/chat/completions ttft tpot itl e2e jitter recompute draft device host disk remote receive
    tokenise admit route wire queue fetch_host fetch_disk fetch_remote prefill publish decode preempted stall lost
    detokenise write
"""

FORM_1: Final = b"".join(msgspec.msgpack.encode(name) for name in _NAMES.split())
