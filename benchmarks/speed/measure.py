"""How the benchmarks measure: clocks, peak memory, processes of their own, and what the machine is."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("nnunetv2-clisc", "nnunetv2", "torch", "torchvision", "segment-anything", "open_clip_torch", "numpy")


class Clock:
    """Seconds by name; on a GPU each is measured to the end of the work it started."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._inside = 0.0

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add what happens inside to a name, except what is timed by another name in there."""
        wait_for(self.device)
        before, self._inside = self._inside, 0.0
        start = time.perf_counter()
        yield
        wait_for(self.device)
        took = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + took - self._inside
        self._inside = before + took

    @property
    def total(self) -> float:
        """Seconds of all names."""
        return sum(self.seconds.values())


def wait_for(device: str) -> None:
    """Let the device finish what it was given."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage may give the peak of the process that started this one
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_process(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """Call a function in a fresh process.

    Returns:
        Its result, and the process's peak memory in bytes.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_with_peak, function, arguments).result()


def _with_peak(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, int]:
    return function(*arguments), peak_memory()


def machine(device: str) -> dict[str, Any]:
    """Processor, its instructions, cores, memory, GPU, versions, threads, and how busy the machine was when asked."""
    import torch

    from pseudo_labeling.precision import has_bfloat16

    facts: dict[str, Any] = {
        "processor": _processor(),
        # as switched by ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA and CLISC_BFLOAT16
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "onednn_at_most": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "bfloat16": has_bfloat16(torch.device(device)),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "device": device,
        "versions": {name: _version(name) for name in PACKAGES},
    }
    if device.startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name()
        facts["cuda"] = torch.version.cuda
    return facts


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds until the device has done what a call gave it to do, and the call's result."""
    wait_for(device)
    start = time.perf_counter()
    result = work()
    wait_for(device)
    return time.perf_counter() - start, result


def _version(name: str) -> str | None:
    """Of an installed package; None for our own where it runs from the repository without being installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
