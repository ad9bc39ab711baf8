"""Keep freed memory in the process: otherwise Linux has to map it anew for large activations."""

import ctypes

# Names and values of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MIB = 2**20


def keep_freed_memory(mebibytes: int = 256) -> bool:
    """Let the process keep up to ``mebibytes`` of freed memory instead of returning it at once.

    The C library of Linux (glibc) returns the memory of large freed tensors to the system, and
    getting it again costs a page fault for every 4 KiB. A mixture's activations are E times a dense
    layer's, so it is hit first. How much the setting helps depends on what else the process frees:
    measure it. It holds for the whole process, so this package leaves it to you to call the
    function, once, before training.

    :param mebibytes: how much freed memory may stay, at most 2047
    :return: whether the C library took the setting; False where it is not glibc
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # glibc takes no threshold above 32 MiB (larger blocks are always returned), and a C int.
    limits = {M_MMAP_THRESHOLD: 32, M_TRIM_THRESHOLD: 2047}
    settings = {name: min(mebibytes, limit) * MIB for name, limit in limits.items()}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
