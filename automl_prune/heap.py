"""Memory that training frees stays with the process.

A step frees what it took, and takes the same at the next step. glibc gives large blocks back to
the system each time, which then hands out zeroed pages anew, one fault each: about a tenth of a
training step on CPUs (docs/benchmarks.md). See mallopt(3).
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for what is taken next, for the life of this process.

    Returns:
        Whether there is such a setting here.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(
        library.mallopt(what, _LARGEST) == 1 for what in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD)
    )
