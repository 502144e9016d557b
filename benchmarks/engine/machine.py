"""The machine and the commit, as a report names them."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Final

from benchmarks.engine.variants import ROOT
from tokenworks.worker.measure import cpu_name

FLAGS: Final = re.compile(r"\b(?:avx2|fma|f16c|avx512\w*|avx_vnni\w*|amx_\w+|asimd\w*|bf16|i8mm|sve\w*)\b")


def describe_machine() -> dict[str, str]:
    """What speed depends on, by name; a line that the system does not tell is left out."""
    cpu, memory = _read("/proc/cpuinfo"), _read("/proc/meminfo")
    clocks = [float(value) for value in re.findall(r"cpu MHz\s*: ([\d.]+)", cpu)]
    total = re.search(r"MemTotal:\s*(\d+)", memory)
    pages = re.search(r"\[(\w+)\]", _read("/sys/kernel/mm/transparent_hugepage/enabled"))
    lines = {
        "CPU": cpu_name(),
        "cores used": str(len(os.sched_getaffinity(0))),
        "clock": f"{min(clocks):.0f} to {max(clocks):.0f} MHz" if clocks else "",
        "instructions": " ".join(
            dict.fromkeys(FLAGS.findall(_first_line(cpu, "flags") or _first_line(cpu, "Features")))
        ),
        "last-level cache": _read("/sys/devices/system/cpu/cpu0/cache/index3/size").strip(),
        "memory": f"{int(total[1]) / 2**20:.0f} GiB" if total else "",
        "huge pages": pages[1] if pages else "",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load at start": " ".join(f"{value:.2f}" for value in os.getloadavg()),
    }
    return {name: value for name, value in lines.items() if value}


def describe_commit() -> str:
    """Hash, and whether files differ from it; `unknown` outside a repository."""
    try:
        commit = _git("rev-parse", "--short=10", "HEAD")
        return f"{commit} with changes" if _git("status", "--porcelain", "-uno") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _first_line(text: str, name: str) -> str:
    return next((line for line in text.splitlines() if line.startswith(name)), "")
