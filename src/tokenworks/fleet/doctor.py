"""Is this machine fit to serve? Each check looks at one thing and says what it found and what to do about it.

Reads /proc where there is one; imports no torch (a broken torch is one of the things it looks for).

Invariant: a check never raises; what stops it from looking is itself a finding.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tokenworks.contract.config import Settings
from tokenworks.contract.errors import TokenworksError
from tokenworks.contract.folders import kernel_folder, may_write, quantized_folder, state_folder
from tokenworks.contract.memory import available_memory_bytes
from tokenworks.contract.worker_groups import groups_of
from tokenworks.fleet.cores import available_cores
from tokenworks.fleet.derive import computes
from tokenworks.fleet.finding import Finding, Verdict
from tokenworks.fleet.launch import resolve_model
from tokenworks.fleet.packages import installed_version, is_met, requirements
from tokenworks.fleet.port import claim_port
from tokenworks.fleet.store_checks import check_extra, check_store

_OLDEST_PYTHON: Final = (3, 11)
_LITTLE_MEMORY_BYTES: Final = 2 << 30


def examine(load: Callable[[], Settings]) -> Iterator[Finding]:
    """All findings, one by one. `load` gives the settings that `serve` would use."""
    settings = Settings()
    try:
        settings = load()
        yield Finding("settings", Verdict.OK, "file, environment and command line read")
    except TokenworksError as error:
        yield Finding("settings", Verdict.FAIL, error.message, "correct it; the checks below use the defaults")
    yield check_python(sys.version_info[:3])
    yield check_packages()
    yield check_torch()
    yield check_cpu(_cpu_flags(), sys.platform)
    yield check_kernels(_native_library(), _cpu_flags())
    yield check_cores(len(available_cores()), sum(group.count for group in groups_of(settings) if computes(group)))
    yield check_memory(available_memory_bytes())
    yield from check_store(settings, available_memory_bytes())
    yield check_port(settings)
    yield check_model(settings)
    yield check_folder("run directory", Path(tempfile.gettempdir()), "set TMPDIR to a folder you may write to")
    yield check_kernel_cache(kernel_folder())
    yield from check_ledger(settings)
    advice = "weights are rounded again at each start: set XDG_CACHE_HOME to a folder you may write to"
    yield check_folder("weight cache", quantized_folder(), advice, Verdict.WARN)


def check_python(version: tuple[int, ...]) -> Finding:
    """The interpreter's version."""
    text = ".".join(map(str, version))
    if version[:2] >= _OLDEST_PYTHON:
        return Finding("python", Verdict.OK, text)
    return Finding("python", Verdict.FAIL, text, "install Python 3.11 or newer")


def check_packages() -> Finding:
    """Whether every package that we require is installed, and new enough."""
    required = requirements()
    if not required:
        return Finding("packages", Verdict.WARN, "tokenworks itself is not installed", "pip install .")
    wrong = [line for line in required if not is_met(line)]
    if wrong:
        quoted = " ".join(f"'{line}'" for line in wrong)
        return Finding("packages", Verdict.FAIL, "missing or too old: " + ", ".join(wrong), f"pip install {quoted}")
    return Finding("packages", Verdict.OK, f"all {len(required)} are installed")


def check_torch() -> Finding:
    """The engine's library, and whether it is the build that this machine needs."""
    version = installed_version("torch")
    if version is None:
        return Finding("torch", Verdict.FAIL, "not installed", "pip install torch (the CPU build is enough)")
    if version.endswith("+cpu") or "+" not in version:
        return Finding("torch", Verdict.OK, version)
    return Finding("torch", Verdict.WARN, f"{version}, a GPU build", "the CPU build is smaller and serves as well here")


def check_cpu(flags: frozenset[str] | None, platform: str) -> Finding:
    """The instructions that decide how fast a CPU multiplies."""
    if flags is None:
        return Finding(
            "cpu", Verdict.WARN, f"features unknown on {platform}", "speed is not known before it is measured"
        )
    known = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd", "bf16")
    found = [flag for flag in known if flag in flags]
    if {"amx_bf16", "avx512_bf16", "bf16"} & flags:
        return Finding("cpu", Verdict.OK, ", ".join(found))
    if {"avx512f", "avx2", "asimd"} & flags:
        return Finding("cpu", Verdict.OK, ", ".join(found) + "; bfloat16 is computed in float32")
    return Finding("cpu", Verdict.WARN, "no vector instructions found", "expect it to be slow")


def check_kernels(library: Path | None, flags: frozenset[str] | None) -> Finding:
    """Whether the engine's fast form was built, and can run here."""
    if "avx512_bf16" not in (flags or ()):
        return Finding("kernels", Verdict.OK, "portable: the native ones are for CPUs with AVX-512 BF16")
    if library is None:
        advice = "install a C++ compiler (on Debian: sudo apt install g++), then install this package again"
        return Finding("kernels", Verdict.WARN, "portable: the native ones were not built", advice)
    return Finding("kernels", Verdict.OK, "native")


def check_cores(num_cores: int, num_workers: int) -> Finding:
    """Cores of this process against the workers asked for."""
    if num_workers > num_cores:
        return Finding(
            "cores", Verdict.WARN, f"{num_cores} for {num_workers} workers", f"take {num_cores} workers or fewer"
        )
    return Finding("cores", Verdict.OK, str(num_cores))


def check_memory(available_bytes: int | None) -> Finding:
    """Memory that is free for weights and KV."""
    if available_bytes is None:
        return Finding("memory", Verdict.WARN, "unknown on this system", "set --kv-bytes")
    found = f"{available_bytes / (1 << 30):.1f} GiB available"
    if available_bytes < _LITTLE_MEMORY_BYTES:
        return Finding("memory", Verdict.WARN, found, "enough for small models only; close other programs")
    return Finding("memory", Verdict.OK, found)


def check_port(settings: Settings) -> Finding:
    """Whether the gateway's port can be listened on."""
    try:
        claim_port(settings.gateway.host, settings.gateway.port)
    except TokenworksError as error:
        return Finding("port", Verdict.FAIL, error.message)
    return Finding("port", Verdict.OK, f"{settings.gateway.host}:{settings.gateway.port} is free")


def check_model(settings: Settings) -> Finding:
    """Whether the model that `serve` would take is there."""
    try:
        return Finding("model", Verdict.OK, resolve_model(settings).model)
    except TokenworksError as error:
        advice = "give a checkpoint folder, or none: a small model is in the package"
        return Finding("model", Verdict.FAIL, error.message, advice if settings.model else "install the package again")


def check_ledger(settings: Settings) -> Iterator[Finding]:
    """Whether records can be kept: the state folder, and a driver where the database is PostgreSQL."""
    folder = state_folder(settings.ledger)
    if folder is None:
        yield Finding("ledger", Verdict.WARN, "off: nothing is recorded", "take `path` out of [ledger] to keep one")
        return
    advice = "nothing would be recorded: set path in [ledger] to a folder you may write to"
    yield check_folder("ledger", folder, advice, Verdict.WARN)
    if settings.ledger.database:
        yield check_extra("postgres", "ledger.database")


def check_kernel_cache(folder: Path | None) -> Finding:
    """Whether compiled kernels are there at the next start."""
    if folder is None:
        advice = "each start compiles them again: set NUMBA_CACHE_DIR to a folder you may write to"
        return Finding("kernel cache", Verdict.WARN, "no folder for compiled kernels can be written to", advice)
    return Finding("kernel cache", Verdict.OK, str(folder))


def check_folder(what: str, folder: Path, advice: str, otherwise: Verdict = Verdict.FAIL) -> Finding:
    """Whether a folder, or the nearest parent that exists, can be written to; `otherwise`: how bad it is if not."""
    if may_write(folder):
        return Finding(what, Verdict.OK, str(folder))
    return Finding(what, otherwise, f"{folder} cannot be written to", advice)


def _native_library() -> Path | None:
    folder = Path(__file__).parents[1] / "engine" / "native"
    return next(folder.glob("_step*.so"), None)


def _cpu_flags() -> frozenset[str] | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return frozenset(
        flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split(":")[1].split()
    )
