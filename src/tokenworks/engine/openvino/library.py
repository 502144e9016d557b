"""The OpenVINO library, or the sentence that says how to get it. Every module of this package imports it from here."""

from __future__ import annotations

from tokenworks.contract.errors import StartupError

try:
    import openvino as ov
    from openvino import opset13 as ops
    from openvino.op import _PagedAttentionExtension as PagedAttention
except ImportError as error:
    raise StartupError(
        f"OpenVINO 2026.4 cannot be imported ({error}): pip install 'tokenworks[openvino]', or take runs = tokenworks"
    ) from error

__all__ = ["PagedAttention", "ops", "ov"]
