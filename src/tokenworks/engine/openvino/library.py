"""The OpenVINO library, or the sentence that says how to get it. Every module of this package imports it from here."""

from __future__ import annotations

from tokenworks.contract.errors import ConfigError, StartupError

try:
    import openvino as ov
    from openvino import opset13 as ops
    from openvino.op import _PagedAttentionExtension as PagedAttention
except ImportError as error:
    raise StartupError(
        f"OpenVINO 2026.4 cannot be imported ({error}): pip install 'tokenworks[openvino]', or take runs = tokenworks"
    ) from error

__all__ = ["PagedAttention", "open_core", "ops", "ov"]


def open_core(device: str) -> ov.Core:
    """OpenVINO with `device` in it; raises ConfigError that lists what is there.

    Only the CPU's KV lies in memory that the caller owns, in pages of a layout that is known to be readable.
    """
    core = ov.Core()
    found = core.available_devices
    if device not in found:
        raise ConfigError(f"OpenVINO finds no device {device!r} here; it finds: {', '.join(found) or 'none'}")
    if device != "CPU":
        raise ConfigError(
            f"device {device}: OpenVINO keeps its KV in device memory of another layout, which is not exchanged yet; "
            "use device = CPU"
        )
    return core
