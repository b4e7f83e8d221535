"""Where models compute, and in which number format."""

import platform

import torch
from accelerate.utils import parse_flag_from_env


def best_device() -> str:
    """`cuda`, `mps` or `cpu`, the first that this machine has; `cpu` where ACCELERATE_USE_CPU=true asks for it."""
    if parse_flag_from_env("ACCELERATE_USE_CPU"):
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def compute_dtype(device: str) -> torch.dtype:
    """The number format of base weights and matrix products on a device.

    Emulated, bf16 is the slower one: on an AMD EPYC with AVX2 alone, torch 2.13 reached 16 GFLOP/s in a linear
    layer of SmolLM2 and 98 in fp32; with AVX512-BF16 it is the other way round (docs/decisions/0005).
    """
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device == "mps" or cpu_multiplies_bf16()
    return torch.bfloat16 if native else torch.float32


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bf16 products (AVX512-BF16, AMX, or those of newer ARM cores)."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
