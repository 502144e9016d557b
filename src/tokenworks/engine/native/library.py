"""The compiled library: whether this machine has it and can run it, and its structs and calls as C declares them.

It is built when the package is installed, where there is a C++ compiler (see setup.py), and plain C to the outside, so
that one build serves every Python and PyTorch. The structs mirror `csrc/api.h` field by field; their sizes are compared
before the first use, so that a library left over from an older version is not run.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from enum import IntEnum
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any, ClassVar, Final

from torch import Tensor

CPU_FLAGS: Final = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16"})
"""What the compiled code uses, as Linux names it in /proc/cpuinfo."""

Fields = list[tuple[str, Any]]


class LinearStruct(Structure):
    """A product's packed weights."""

    _fields_: ClassVar[Fields] = [
        *((name, c_int32) for name in ("kind", "out_features", "in_features", "group")),
        *((name, c_void_p) for name in ("weights", "scales", "bias")),
    ]


class LayerStruct(Structure):
    """A layer's weights."""

    _fields_: ClassVar[Fields] = [
        *((name, c_void_p) for name in ("input_norm", "post_norm", "query_norm", "key_norm")),
        *((name, LinearStruct) for name in ("qkv", "out", "gate_up", "down")),
        ("router", c_void_p),
        ("gate_up_of", POINTER(LinearStruct)),
        ("down_of", POINTER(LinearStruct)),
        ("window_index", c_int32),
        ("window", c_int32),
    ]


class ModelStruct(Structure):
    """The model's shape and weights."""

    _fields_: ClassVar[Fields] = [
        *((name, c_int32) for name in ("num_layers", "hidden", "inner", "num_heads", "num_kv_heads", "head_dim")),
        *((name, c_int32) for name in ("num_experts", "experts_per_token", "normalises_experts", "embedding_kind")),
        ("eps", c_float),
        ("embedding", c_void_p),
        ("rope", c_void_p),
        ("final_norm", c_void_p),
        ("layers", POINTER(LayerStruct)),
        ("head", LinearStruct),
    ]


class KVStruct(Structure):
    """The KV memory."""

    _fields_: ClassVar[Fields] = [
        ("data", c_void_p),
        ("scales", c_void_p),
        ("num_slots", c_int64),
        ("block_tokens", c_int32),
    ]


class PiecesStruct(Structure):
    """The decode rows' contexts in pieces."""

    _fields_: ClassVar[Fields] = [
        ("count", c_int32),
        *((name, c_void_p) for name in ("rows", "starts", "ends", "first_of")),
    ]


class ChunkStruct(Structure):
    """Several rows of one sequence."""

    _fields_: ClassVar[Fields] = [
        *((name, c_int32) for name in ("first_row", "num_tokens", "context_tokens")),
        ("slots", c_void_p),
    ]


class BatchStruct(Structure):
    """The step's rows."""

    _fields_: ClassVar[Fields] = [
        *((name, c_int32) for name in ("num_rows", "num_decode_rows", "num_chunks", "num_sampled", "table_width")),
        *((name, c_void_p) for name in ("token_ids", "positions", "slots", "blocks")),
        ("pieces", POINTER(PiecesStruct)),
        ("chunks", POINTER(ChunkStruct)),
        ("sampled_rows", c_void_p),
    ]


class WorkspaceStruct(Structure):
    """Memory between two operations."""

    _fields_: ClassVar[Fields] = [
        (name, c_void_p)
        for name in (
            *("residual", "normed", "qkv", "query", "attention", "inner"),
            *("codes", "code_scales", "code_sums", "partial_values", "partial_stats"),
            *("expert_out", "router_logits", "routes", "route_weights", "delta", "gate_up"),
        )
    ]


STRUCTS: Final = (
    *(LinearStruct, LayerStruct, ModelStruct, KVStruct),
    *(PiecesStruct, ChunkStruct, BatchStruct, WorkspaceStruct),
)
"""In the order in which the library tells their sizes."""


class Part(IntEnum):
    """What happens between two products; in the order of `csrc/api.h`."""

    EMBED = 0
    INPUT_NORM = 1
    ATTENTION = 2
    ADD_AND_POST_NORM = 3
    GATE = 4
    EXPERTS = 5
    ADD = 6
    HEAD = 7


def pointer(tensor: Tensor | None) -> int | None:
    """Address of a contiguous tensor's memory, which the caller keeps alive."""
    if tensor is None:
        return None
    assert tensor.is_contiguous(), "the library reads memory in order"
    return tensor.data_ptr()


def missing() -> str | None:
    """Why the library cannot be used here; None where it can."""
    path = _path()
    if path is None:
        return "it was not built when the package was installed (that takes a C++ compiler on 64-bit Linux)"
    if not cpu_flags() >= CPU_FLAGS:
        return f"this CPU lacks {', '.join(sorted(CPU_FLAGS - cpu_flags()))}"
    return None if _is_of_this_version(path) else "it was built for another version of the package: install again"


@cache
def _is_of_this_version(path: Path) -> bool:
    library = ctypes.CDLL(str(path))
    if not hasattr(library, "tw_struct_sizes"):
        return False
    sizes = (c_int64 * len(STRUCTS))()
    library.tw_struct_sizes(sizes)
    return list(sizes) == [ctypes.sizeof(struct) for struct in STRUCTS]


def cpu_flags() -> frozenset[str]:
    """The first CPU's flags; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":")[1] for line in lines if line.startswith("flags")), "").split())


@cache
def load() -> ctypes.CDLL:
    """The library; only where nothing is `missing`."""
    path = _path()
    assert path is not None, "the library was not built"
    library = ctypes.CDLL(str(path))
    library.tw_forward.argtypes = [c_void_p] * 5 + [c_int32]
    library.tw_part.argtypes = [c_void_p] * 5 + [c_int32] * 3
    library.tw_linear.argtypes = [c_void_p, c_void_p, c_int64, c_void_p, c_void_p, c_int32]
    library.tw_heads.argtypes = library.tw_attend.argtypes = [c_void_p] * 4 + [c_int32] * 2
    library.tw_read.argtypes, library.tw_read.restype = [c_void_p, c_int64, c_int32], c_int64
    library.tw_pack_quantized.argtypes = [c_void_p, c_int64, c_int64, c_int32, c_void_p]
    for name in ("tw_forward", "tw_part", "tw_linear", "tw_heads", "tw_attend", "tw_pack_quantized"):
        getattr(library, name).restype = None
    return library


def _path() -> Path | None:
    names = (Path(__file__).with_name(f"_step{suffix}") for suffix in EXTENSION_SUFFIXES)
    return next((path for path in names if path.exists()), None)
