"""Where models compute, in which number format, and how they get memory there."""

from __future__ import annotations

import ctypes
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def best_device() -> str:
    """`cuda`, `mps` or `cpu`, the first that this machine has; `cpu` where ACCELERATE_USE_CPU=true asks for it."""
    import torch
    from accelerate.utils import parse_flag_from_env

    if parse_flag_from_env("ACCELERATE_USE_CPU"):
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def compute_dtype(device: str) -> torch.dtype:
    """The number format of base weights and matrix products on a device.

    Emulated, bf16 is the slower one: on an AMD EPYC with AVX2 alone, torch 2.13 reached 16 GFLOP/s in a linear
    layer of SmolLM2 and 98 in fp32; with AVX512-BF16 it is the other way round (docs/decisions/0005).
    """
    import torch

    native = {
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
        "mps": lambda: True,
        "cpu": cpu_multiplies_bf16,
    }
    return torch.bfloat16 if native[device]() else torch.float32


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bf16 products (AVX512-BF16, AMX, or those of newer ARM cores)."""
    import torch

    if platform.machine().lower() in ("arm64", "aarch64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def keep_freed_memory() -> None:
    """Let glibc keep what this process frees, up to 2 GB, for its next tensors; elsewhere nothing is changed.

    A training step frees and asks for large tensors all the time. glibc would return each of them to the system and get
    it back page by page, zeroed: on processors that are quick at products, a good part of a step (docs/decisions/0005).
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt  # malloc.h names the parameters below
        m_trim_threshold, m_mmap_max = -1, -4
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
