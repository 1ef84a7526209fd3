"""Blocks of every GGML type and what the `gguf` package dequantizes them to, bit for bit."""

from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

ROWS, COLS = 3, 512


def finite_halves(rng, count):
    """Any finite f16, subnormals and both zeros included."""
    bits = rng.integers(0, 1 << 16, size=count, dtype=np.uint16)
    return np.where((bits & 0x7C00) == 0x7C00, bits & 0x83FF, bits).view(np.float16)


def random_blocks(rng, kind, halves):
    """Random bytes, with finite numbers at the byte offsets where a block keeps its scales."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    count = ROWS * COLS // elements
    blocks = rng.integers(0, 256, size=(count, size), dtype=np.uint8)
    for offset in halves:
        blocks[:, offset : offset + 2] = finite_halves(rng, count).reshape(-1, 1).view(np.uint8)
    return blocks.reshape(ROWS, -1)


def write(out: Path):
    """`<type>.bin` (stored bytes) and `<type>.f32` (little-endian floats): 3 rows of 512 elements."""
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(20240817)
    values = (rng.standard_normal((ROWS, COLS)) * 3).astype(np.float32)
    stored = {
        "f32": values.view(np.uint8),
        "f16": finite_halves(rng, ROWS * COLS).reshape(ROWS, COLS).view(np.uint8),
        "bf16": quantize(values, Type.BF16),
        "q8_0": random_blocks(rng, Type.Q8_0, [0]),
        "q6_k": random_blocks(rng, Type.Q6_K, [208]),
        "q5_k": random_blocks(rng, Type.Q5_K, [0, 2]),
        "q4_k": random_blocks(rng, Type.Q4_K, [0, 2]),
        "q5_0": random_blocks(rng, Type.Q5_0, [0]),
        "q4_0": random_blocks(rng, Type.Q4_0, [0]),
    }
    # One row as a quantizer really writes it, beside the random ones.
    for name in ["q8_0", "q5_0", "q4_0"]:
        stored[name][0] = quantize(values[:1], Type[name.upper()])[0]
    for name, blocks in stored.items():
        kind = Type[name.upper()]
        numbers = blocks.view(np.float32) if name == "f32" else dequantize(blocks if name != "f16" else blocks.view(np.float16), kind)
        numbers = np.ascontiguousarray(numbers, dtype=np.float32).reshape(ROWS, COLS)
        assert np.isfinite(numbers).all(), name
        (out / f"{name}.bin").write_bytes(blocks.tobytes())
        (out / f"{name}.f32").write_bytes(numbers.astype("<f4").tobytes())
