"""Keep freed memory in the process: on Linux, large activations are otherwise fetched anew."""

import ctypes

# Names and values of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MIB = 2**20


def keep_freed_memory(mebibytes: int = 256) -> bool:
    """Let the process keep up to so much freed memory instead of giving it back at once.

    The C library of Linux (glibc) returns large freed tensors to the system, and fetching them
    again costs a page fault for every 4 KiB. A mixture's activations are E times a dense layer's,
    so it feels this first. How much it helps depends on what else the process frees: measure it.
    The setting holds for the whole process, so it is yours to call, once, before training.

    :param mebibytes: how much freed memory may stay
    :return: whether the C library took the setting; False where it is not glibc
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # Larger blocks than 32 MiB are always fetched anew: glibc takes no higher threshold.
    settings = {M_MMAP_THRESHOLD: min(mebibytes, 32) * MIB, M_TRIM_THRESHOLD: mebibytes * MIB}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
