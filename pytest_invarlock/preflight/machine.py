"""What this machine has free: memory, disk, and the memory of its CUDA device."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_CUDA_SIGNS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory of the device that models are measured on; None where it cannot be told.

    ``taken`` is what others hold of it now: torch tells no more of whether a device is idle.
    """

    device: str
    free: int | None
    total: int | None = None

    @property
    def taken(self) -> int | None:
        """Bytes in use by others."""
        return None if self.free is None or self.total is None else self.total - self.free


def device_memory(asked: str) -> DeviceMemory:
    """The free memory of the device that ``asked`` (auto, cpu, cuda, mps) leads to.

    torch is imported, and CUDA started in this process, only where a CUDA device can be.
    """
    if asked in ("auto", "cuda") and cuda_is_possible():
        import torch

        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            return DeviceMemory("cuda", free, total)
    # Apple's devices share the memory of the machine.
    device = "mps" if asked == "mps" or (asked == "auto" and sys.platform == "darwin") else "cpu"
    return DeviceMemory(device, free_memory())


def cuda_is_possible() -> bool:
    """Whether this machine may have a CUDA or ROCm device, told without importing torch."""
    if sys.platform.startswith("linux"):
        return any(Path(sign).exists() for sign in _CUDA_SIGNS)
    return sys.platform != "darwin"


def free_memory() -> int | None:
    """Bytes of memory that programs can still get, the bound of a container among it.

    From ``/proc/meminfo``; without it all the memory there is; None where that is not told.
    """
    found = [free for free in (_host_memory(), _container_memory()) if free is not None]
    return min(found, default=None)


def free_disk(folder: Path) -> int | None:
    """Bytes free on the disk of ``folder``, or of the nearest folder above it that exists."""
    absolute = folder.absolute()
    existing = next((path for path in (absolute, *absolute.parents) if path.exists()), None)
    if existing is None:
        return None
    usage = shutil.disk_usage(existing)
    return usage.free if usage.total else None


def _host_memory() -> int | None:
    if _MEMINFO.is_file():
        for line in _MEMINFO.read_text(encoding="ascii", errors="replace").splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable" and rest.split()[0].isdigit():
                return int(rest.split()[0]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _container_memory() -> int | None:
    """What a control group (version 2) leaves; file pages it could drop count as free."""
    try:
        bound = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    if not bound.isdigit():
        return None
    stat = dict(line.split(maxsplit=1) for line in lines if " " in line)
    return max(0, int(bound) - used + int(stat.get("inactive_file", 0)))


def as_bytes(count: int) -> str:
    """``count`` bytes in decimal units: ``1.5 GB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
