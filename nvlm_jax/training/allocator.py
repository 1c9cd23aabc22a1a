"""Environment of training processes on CPU.

XLA's CPU backend asks for its buffers anew at each step. Told to keep freed memory, and to back it with huge pages,
glibc hands it back the same ones: a step then takes about two thirds of the time (docs/performance.md).
"""

KEEP_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_THRESHOLD_": "8000000000",
    "MALLOC_TRIM_THRESHOLD_": "16000000000",
}
