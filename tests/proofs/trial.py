"""One try of a command or a call, in a process of its own: what it says, how it ends, and whether that is right."""

from __future__ import annotations

import contextlib
import importlib
import io
import multiprocessing
import os
import random
import re
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ciperlib.files import project_root

torch.set_num_threads(1)  # a pool of threads does not survive a fork: a try that needs it would wait for ever

SECONDS = 120  # after which a try hangs
REFUSED = 2
WARM = (  # imported once, before anything forks
    "ciperlib.learn.training", "ciperlib.learn.external", "ciperlib.analyse.probing.tables", "ciperlib.batch.sweep",
    "ciperlib.batch.collect", "ciperlib.present.page", "papermill", "torchvision.models", "timm",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a try ended: its exit status (None: it was still running), and what it printed."""

    status: int | None
    out: str
    err: str

    def refusal(self) -> str | None:
        """What is wrong with it as a refusal: one sentence, exit status 2, no traceback."""
        if self.status is None:
            return "hangs"
        if "Traceback" in self.err + self.out:
            return f"traceback: {self.err.strip().splitlines()[-1:]}"
        if self.status != REFUSED:
            return f"silently accepted (exit {self.status})" if self.status == 0 else f"exit {self.status}"
        lines = self.err.strip().splitlines()
        return None if len(lines) == 1 and lines[0].startswith("ciperlib: ") else f"not one sentence: {lines[:3]}"


def run_command(arguments: Sequence[str], seconds: float = SECONDS, **environment: str) -> Outcome:
    """`python -m ciperlib ...`, forked from here, so that torch need not be imported each time."""
    from ciperlib.__main__ import main

    return run_call(lambda: main(list(arguments)), seconds, **environment)


def run_call(call: Callable[[], Any], seconds: float = SECONDS, **environment: str) -> Outcome:
    """Any call; an error of ciperlib's own counts as a refusal, as the command line makes one of it."""
    for module in WARM:
        importlib.import_module(module)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(call, sender, environment))
    child.start()
    sender.close()
    outcome = Outcome(None, "", "")
    try:
        if receiver.poll(seconds):
            outcome = Outcome(*receiver.recv())
    except EOFError:
        outcome = Outcome(child.exitcode or -1, "", "Traceback: the process died")
    child.join(5)
    if child.is_alive():
        child.kill()
    return outcome


def _work(call, sender, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    warnings.simplefilter("default")  # as on a command line, whoever asks
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = call()
            status = status if isinstance(status, int) and not isinstance(status, bool) else 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else (1 if stop.code else 0)
        except BaseException as error:
            ours = type(error).__module__.startswith("ciperlib.")
            status = REFUSED if ours else 1
            print(f"ciperlib: {error}" if ours else traceback.format_exc(), file=err)
    sender.send((status, out.getvalue(), err.getvalue()))
    sender.close()


def failing_tests(marked: str, paths: Sequence[Path], **environment: str) -> list[str]:
    """The tests below these paths that carry such marks and fail, two files at a time, as pytest names them."""
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-rfE", "-m", marked, *map(str, paths)]
    done = subprocess.run(
        command, cwd=project_root(), env={**os.environ, **environment}, capture_output=True, text=True
    )
    found = re.findall(r"^(?:FAILED|ERROR) .+", done.stdout, re.MULTILINE)
    fine = done.returncode in (0, 5)  # 5: no test carries them
    return found or ([] if fine else [done.stdout[-300:] + done.stderr[-300:]])


def draw(cases: Sequence[Any], share: float, seed: int) -> list[Any]:
    """A seeded share of the cases, at least one, in their order."""
    count = max(1, round(share * len(cases)))
    chosen = sorted(random.Random(seed).sample(range(len(cases)), count))
    return [cases[i] for i in chosen]


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
