"""Which weights, which pixels: digests of tensors, and matrices on disk that are trusted only with the right one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ciperlib.files import write_atomically


def fingerprint(module: nn.Module) -> str:
    """Which weights these are: 16 hexadecimal digits of a SHA-256.

    It covers the names, shapes, types and bytes of all parameters and buffers, BatchNorm's running statistics among
    them, in the order of `state_dict` (buffers that are not saved come last), wherever and however they lie in memory.
    """
    tensors = dict(module.state_dict())
    for name, buffer in module.named_buffers():
        tensors.setdefault(name, buffer)
    sha = hashlib.sha256()
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor):
            sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            sha.update(_bytes(tensor))
    return sha.hexdigest()[:16]


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes, wherever it lies."""
    return hashlib.sha256(_bytes(tensor)).hexdigest()


def load_matrix(path: Path, pixels: str, rows: int) -> Tensor | None:
    """The cached matrix, or None where there is none that is whole and made from these pixels."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata, matrix = file.metadata() or {}, file.get_tensor("matrix")
    except (OSError, SafetensorError):
        return None
    whole = len(matrix) == rows and metadata.get("pixels") == pixels and metadata.get("matrix") == digest(matrix)
    return matrix if whole else None


def save_matrix(path: Path, pixels: str, matrix: Tensor) -> None:
    """Keeps a matrix with its own digest and that of the pixels it was made from."""
    write_atomically(path, save({"matrix": matrix}, metadata={"pixels": pixels, "matrix": digest(matrix)}))


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
