"""The OpenVINO library, or the sentence that says how to get it. Every module of this package imports it from here."""

from __future__ import annotations

from tokenworks.contract.errors import StartupError
from tokenworks.contract.extras import install_command

try:
    import openvino as ov
    from openvino import opset13 as ops
    from openvino.op import _PagedAttentionExtension as PagedAttention
except ImportError as error:
    raise StartupError(
        f"OpenVINO 2026.4 cannot be imported ({error}): install it with `{install_command('openvino')}`, or write "
        'runs = "tokenworks"'
    ) from error

__all__ = ["PagedAttention", "ops", "ov"]
