"""The long proofs, behind `make prove`: planted faults, bad input, any config, kills, load in a browser, another CPU.

`make test` is what lands; this is what is asked before a release. A seeded fifth of each is drawn (`--share 1` does
all, `--seed` draws another fifth). The outcome is one JSON, written after each part; parts that are not asked again
stay in it as they were, each with its own date, share and seed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from proofs import bad_input, configs, cpu, faults, flips, kills, longer, overload, system

from ciperlib.files import write_json

# name -> what it does: (share, seed) -> counts; "found" lists what should not have been
PARTS: dict[str, Callable[[float, int], dict[str, Any]]] = {
    "bad input": bad_input.prove,
    "flipped bits": flips.prove,
    "any config": configs.prove,
    "kills": kills.prove,
    "longer tests": longer.prove,
    "planted faults": faults.prove,
    "another CPU": cpu.prove,
    "another system": system.prove,
    "load in a browser": overload.prove,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.2, help="of each part's cases (default: 0.2)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, help="the JSON to write, or to add to")
    options = parser.parse_args()
    known = json.loads(options.output.read_text())["parts"] if options.output and options.output.exists() else {}
    outcome = {"parts": {name: known[name] for name in PARTS if name in known}}
    how = {"date": str(date.today()), "share": options.share, "seed": options.seed}
    for name in options.only:
        start = time.monotonic()
        print(f"--- {name}", flush=True)
        part = PARTS[name](options.share, options.seed)
        outcome["parts"][name] = {**part, **how, "seconds": round(time.monotonic() - start)}
        print(f"{name}: {outcome['parts'][name]}", flush=True)
        if options.output:
            write_json(options.output, outcome)
    failed = [name for name in options.only if outcome["parts"][name]["found"]]
    print(f"{len(options.only)} parts; not proven: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
