"""Attention that holds neither scores nor mask, forward and backward, for GPUs and TPUs.

    rule.py        who sees whom, in integers a token; which blocks of keys each block of queries has to meet
    triton.py      the kernels on NVIDIA GPUs
    mosaic.py      the kernels on TPUs
    attention.py   around them: padding, what is kept for the backward pass, interpret mode on CPU

The two backends share the rule and the mathematics of a block (`blocks.py`). They differ in what hardware asks for: a
GPU runs programs side by side, each with a loop over blocks; a TPU runs one grid in order, its sums in scratch memory.
"""
