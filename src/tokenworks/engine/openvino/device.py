"""One OpenVINO device, and what its plugin is told when a model is compiled for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from tokenworks.contract.errors import ConfigError, StartupError
from tokenworks.engine.openvino.library import ov


@dataclass(frozen=True, slots=True)
class Device:
    """A device by OpenVINO's name."""

    core: Any  # openvino.Core
    name: str
    properties: dict[str, Any]

    def compile(self, graph: Any) -> Any:
        """An `openvino.CompiledModel`; raises StartupError where OpenVINO refuses the graph."""
        try:
            return self.core.compile_model(graph, self.name, self.properties)
        except RuntimeError as error:
            raise StartupError(
                f"OpenVINO {ov.__version__} refuses the model (this program is tested with 2026.4): {error}"
            ) from error


def open_device(name: str, dtype: torch.dtype, threads: int) -> Device:
    """The device, computing in `dtype` on so many threads (0: one a core); raises ConfigError that lists what is there.

    Only the CPU's KV lies in memory that the caller owns, in pages of a layout that is known to be readable.
    """
    core = ov.Core()
    found = core.available_devices
    if name not in found:
        raise ConfigError(
            f"OpenVINO finds no device {name!r} here; set `device` to one of: {', '.join(found) or 'none'}"
        )
    if name != "CPU":
        raise ConfigError(
            f"device {name}: OpenVINO keeps its KV in device memory of another layout, which is not exchanged yet; "
            "use device = CPU"
        )
    return Device(core, name, _properties(dtype, threads or len(os.sched_getaffinity(0))))


def _properties(dtype: torch.dtype, threads: int) -> dict[str, Any]:
    """One stream of all threads: the engine computes one step at a time."""
    kind = "bf16" if dtype == torch.bfloat16 else "f32"
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": kind,
        "KV_CACHE_PRECISION": kind,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # the process has been given its cores already
    }
    if dtype == torch.float32:
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0  # else activations meet int8 weights rounded, float32 or not
    return properties
