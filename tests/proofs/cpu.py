"""A CPU without fast bf16, imitated: a training epoch takes at most three times as long as on the plain machine."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from ciperlib.learn.devices import has_fast_bf16

MOST = 3.0
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
EPOCH = """
import sys, time
from ciperlib.config import Config
from ciperlib.learn.training import fit
run = fit(Config(train_size=1024, epochs=3), sys.argv[1], progress="none", device="cpu")
seconds = run.history["seconds"]
print(run.config.precision, seconds.iloc[-1] - seconds.iloc[-2])
"""


def prove(share: float, seed: int) -> dict[str, Any]:
    """Seconds of an epoch of eight steps, three alternating pairs; `found`: a ratio above the bound, or bf16 anyway."""
    import torch

    if not has_fast_bf16(torch.device("cpu")):
        return {"skipped": "this CPU is one without fast bf16", "found": []}
    plain, imitated = [], []
    for _ in range(3):
        plain.append(_epoch({}))
        imitated.append(_epoch(AVX2))
    seconds = [statistics.median(seconds for _, seconds in found) for found in (plain, imitated)]
    ratio = seconds[1] / seconds[0]
    wrong = [f"{ratio:.2f} times as long"] if ratio > MOST else []
    wrong += [f"trained in {kind}" for kind, _ in imitated if kind != "float32"]
    return {"epoch_seconds": seconds, "ratio": round(ratio, 2), "bound": MOST, "found": wrong}


def _epoch(environment: dict[str, str]) -> tuple[str, float]:
    with tempfile.TemporaryDirectory() as root:
        command, both = [sys.executable, "-c", EPOCH, root], {**os.environ, **environment}
        out = subprocess.run(command, env=both, check=True, capture_output=True, text=True).stdout
    precision, seconds = out.splitlines()[-1].split()
    return precision, float(seconds)
