"""The environment variables of a process that works on runs."""

__all__ = ["WORKER_ENVIRONMENT"]

WORKER_ENVIRONMENT = {
    # many runs of one thread each are faster than one run of many threads
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    # glibc would give the memory of large gradients back after each step: 8 % of a step of Table 5's network
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}
