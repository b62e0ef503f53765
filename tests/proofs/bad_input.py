"""Bad input, scripted: every case ends in one sentence and exit status 2, or is read rightly; none hangs, none loses.

A case is a name, what is done, and what may come of it: "refused", or a check of what was read.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ciperlib.config import Config
from ciperlib.data import load_images
from ciperlib.learn.external import load_network
from proofs.trial import Outcome, draw, run_call, run_command, tell

SIDE = 16
PRECIOUS = "this is somebody's thesis"


@dataclass(frozen=True)
class Case:
    """`run(folder)` is the try; `judge` says what is wrong with how it ended, or None."""

    name: str
    run: Callable[[Path], Outcome]
    judge: Callable[[Outcome], str | None] = Outcome.refusal


def prove(share: float, seed: int) -> dict[str, Any]:
    """Cases tried; `found`: silent wrong answers, tracebacks, hangs, losses."""
    cases, found = all_cases(), []
    for case in draw(cases, share, seed):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "precious.txt").write_text(PRECIOUS)
            wrong = case.judge(case.run(Path(folder)))
            if (Path(folder) / "precious.txt").read_text() != PRECIOUS:
                wrong = "a file of somebody else's was changed"
        if wrong:
            found.append(f"{case.name}: {wrong}")
            tell(found[-1])
    return {"known": len(cases), "tried": len(draw(cases, share, seed)), "found": found}


def all_cases() -> list[Case]:
    return [*_choices(), *_arguments(), *_tables(), *_pictures(), *_places(), *_records(), *_weights(), *_notebooks()]


# --- choices of a config ----------------------------------------------------------------------------------------------

BAD = {
    "number": (
        "",
        "a",
        "nan",
        "inf",
        "-inf",
        "-1e400",
        "1e400",
        "9" * 400,
        "-1",
        "1,2",
        "true",
        "[]",
        "0x10",
        "none:x",
    ),
    "text": ("", "xyz", "adamw:x", "crop,flip:0.8", "crop,crop", "../..", "<script>", "☃", "a" * 5000, "1", "true"),
    "switch": ("", "2", "yes", "xyz", "1.0", "none", "true:x"),
}
FINE = {  # of those above, what a choice may be
    "alpha": {"none"},
    "invariant_share": {"none"},
    "precision": {"none"},
}


def _choices() -> Iterator[Case]:
    for f in fields(Config):
        if f.name in ("content", "recipe"):
            continue
        kind = {"str": "text", "tuple": "text", "bool": "switch"}.get(f.type.split(" ")[0].split("[")[0], "number")
        for text in BAD[kind]:
            if text not in FINE.get(f.name, ()):
                yield Case(f"fit -p {f.name} {text[:30]}", _fit(f.name, text))
    for pairs in (
        ["method", "simclr", "alpha", "3"],
        ["alpha", "1", "alpha", "2"],
        ["augmentations", "pose", "train_size", "64"],
        ["dataset", "tdw", "method", "transformation_prediction", "class_information", "added"],
        ["dataset", "digits", "image_size", "20"],
        ["dataset", "folder:"],
        ["dataset", "folder"],
        ["dataset", "turntable:x"],
        ["dataset", "cifar10:x"],
        ["content", "12345678"],
        ["recipe", "2"],
        ["dataset", "folder:../x"],
        ["dataset", "folder:/etc"],
        ["dataset", "folder:nothing-here"],
    ):
        yield Case(f"fit {' '.join(pairs)}", _fit(*pairs))


def _fit(*pairs: str) -> Callable[[Path], Outcome]:
    asked = [part for name, text in zip(pairs[::2], pairs[1::2]) for part in ("-p", name, text)]
    return lambda folder: run_command(["fit", *asked, "--device", "cpu", "--root", str(folder / "runs")])


# --- arguments of commands --------------------------------------------------------------------------------------------


def _arguments() -> Iterator[Case]:
    one = "notebooks/one_encoder.ipynb"
    for value in ("-1", "0", "x", "1.5", "", "nan", "9" * 30):
        yield Case(f"sweep --workers {value[:9]}", _command("sweep", one, "-p", "seed", "0", "--workers", value))
    for value in ("-1", "x", "1.5", "99"):
        yield Case(
            f"sweep --gpus {value}", _command("sweep", one, "-p", "seed", "0", "--gpus-per-run", value), _not_done
        )
    for value in ("-1", "0", "nan", "inf", "x"):
        yield Case(f"sweep --timeout {value}", _command("sweep", one, "-p", "seed", "0", "--timeout", value))
    for value in ("-1", "x", "1.5"):
        yield Case(f"sweep --retries {value}", _command("sweep", one, "-p", "seed", "0", "--retries", value))
    for pair in (["sed", "0"], ["seed", ""], ["seed", ","], ["seed", "5..1"], ["seed", "0..99999999999"]):
        yield Case(f"sweep -p {' '.join(pair)}", _command("sweep", one, "-p", *pair))
    for arguments in (
        ["run", one, "-p", "sed", "0"],
        ["run", one, "-p", "seed", "0", "-p", "seed", "1"],
        ["run", "nothing.ipynb"],
        ["run", one, "--profile", "papr"],
        ["run", one, "--profile", "../x"],
        ["run", one, "--values", "{"],
        ["run", one, "--values", "[]"],
        ["run", "README.md"],
        ["run", "notebooks"],
        ["run", "/dev/null"],
        ["fit", "--profile", ""],
        ["fit", "--profile", "smoke:x"],
        ["fit", "-p", "seed"],
        ["fit", "--nothing"],
        [],
        ["fit", "--device", "cuda:99"],
        ["fit", "--device", "tpu"],
        ["fit", "--device", ""],
        ["fi"],
        ["fit", "x"],
        ["probe", "nobody"],
        ["probe", ""],
        ["probe", "\0"],
        ["probe", "../.."],
        ["probe", "/dev/null"],
        ["probe"],
        ["data", "imagenet"],
        ["data", ""],
        ["data", "folder:"],
        ["data", "turntable:x"],
        ["data", "cifar10"],
        ["data", "core50"],
        ["data", "tdw"],
        ["data", "folder:\0"],
        ["data", "folder:" + "a" * 3000],
        ["collect", "nowhere"],
        ["collect", "/dev/null"],
        ["collect", "."],
        ["collect", ""],
        ["sweep", "nothing.ipynb"],
        ["zoo", "--device", "tpu"],
        ["page", "--output", "/dev/null"],
        ["page", "--output", "README.md/page.html"],
    ):
        yield Case(" ".join(arguments)[:60], _command(*arguments))


def _command(*arguments: str) -> Callable[[Path], Outcome]:
    wants_output = arguments[:1] in (("run",), ("sweep",))
    return lambda folder: run_command(
        [*arguments, *(["--output", str(folder / "out")] if wants_output else [])], CIPER_DATA=str(folder)
    )


def _not_done(ended: Outcome) -> str | None:
    """A refusal, or a sweep that says that not all ended well."""
    return None if ended.status == 1 and "did not end well" in ended.err + ended.out else ended.refusal()


# --- folders of images ------------------------------------------------------------------------------------------------

ROWS = [f"{i}.png,{'ab'[i % 2]}" for i in range(12)]
TABLES: dict[str, bytes] = {
    "no column file": b"name,category\n0.png,a\n",
    "empty": b"",
    "header only": b"file,category\n",
    "blank": b"\n\n\n",
    "latin-1": "file,category\n0.png,Möwe\n1.png,b\n".encode("latin-1"),
    "binary": bytes(range(256)) * 9,
    "semicolons": b"file;category\n0.png;a\n1.png;b\n",
    "a gap": b"file,category\n0.png,\n1.png,b\n",
    "ragged": b"file,category\n0.png,a,b,c\n1.png,b\n",
    "unclosed quote": b'file,category\n"0.png,a\n1.png,b\n',
    "a column twice": b"file,category,category\n0.png,a,b\n1.png,b,a\n",
    "a split": b"file,category,split\n0.png,a,val\n",
    "only a train split": b"file,category,split\n0.png,a,train\n1.png,b,train\n",
    "missing image": b"file,category\nnothing.png,a\n1.png,b\n",
    "a folder as image": b"file,category\nsub,a\n1.png,b\n",
    "outside": b"file,category\n../precious.txt,a\n1.png,b\n",
    "absolute": b"file,category\n/etc/passwd,a\n1.png,b\n",
    "infinite": b"file,distance\n0.png,inf\n1.png,2\n2.png,3\n",
    "text distance": b"file,distance\n0.png,a\n1.png,b\n",
    "azimuth in degrees": b"file,object,azimuth\n0.png,o,0\n1.png,o,90\n2.png,o,180\n3.png,o,270\n",
    "not a number": b"file,azimuth_degrees\n0.png,north\n1.png,south\n",
    "NUL": b"file,category\n0.png\0,a\n1.png,b\n",
    "a huge number": b"file,object\n0.png," + b"9" * 40 + b"\n1.png,3\n",
    "one row": b"file,category\n0.png,a\n",
    "mask missing": b"file,category,mask\n0.png,a,m.png\n1.png,b,m.png\n",
    "mask is text": b"file,mask\n0.png,factors.csv\n",
}


def _tables() -> Iterator[Case]:
    for name, content in TABLES.items():
        yield Case(f"table: {name}", _load(lambda folder, content=content: _write(folder, content)))
    for name, header in {"BOM": b"\xef\xbb\xbf", "CRLF": b""}.items():
        rows = (b"\r\n" if name == "CRLF" else b"\n").join([b"file,category", *(row.encode() for row in ROWS), b""])
        yield Case(f"table: {name}", _load(lambda folder, c=header + rows: _write(folder, c)), _reads("category", 2))
    for word in ("NA", "None", "null", "nan", "N/A", "-", "true", "#N/A", "''"):
        rows = "\n".join(["file,category", *(row.replace(",b", f",{word}") for row in ROWS)])
        yield Case(f"table: a class {word}", _load(lambda f, c=rows: _write(f, c.encode())), _reads("category", 2))
    rows = "\n".join(
        ["file,category,split", *(f"{i}.png,{'ab'[i > 5]},{'train' if i % 3 else 'test'}" for i in range(12))]
    )
    yield Case("table: sorted", _load(lambda f, c=rows: _write(f, c.encode()), size=4), _reads("category", 2))
    same = "\n".join(
        ["file,category,split", *(f"{i}.png,{'ab'[i % 2]},{'train' if i % 3 else 'test'}" for i in range(12))]
    )
    for kind in ("png", "bmp", "tiff"):
        yield Case(f"table: the same picture in both splits, as {kind}", _load(lambda f, k=kind: _twins(f, same, k)))


def _write(folder: Path, table: bytes) -> None:
    (folder / "mine" / "sub").mkdir(parents=True)
    for i in range(12):
        _picture(i).save(folder / "mine" / f"{i}.png")
    (folder / "mine" / "factors.csv").write_bytes(table)


def _twins(folder: Path, table: str, kind: str) -> None:
    _write(folder, table.replace("3.png,", f"3.{kind},").encode())
    Image.open(folder / "mine" / "4.png").save(folder / "mine" / f"3.{kind}")


def _picture(seed: int, side: int = SIDE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def _load(make: Callable[[Path], None], size: int | None = None) -> Callable[[Path], Outcome]:
    def run(folder: Path) -> Outcome:
        make(folder)
        return run_call(lambda: print(_summary(folder, size)))

    return run


def _summary(folder: Path, size: int | None) -> str:
    parts = [load_images("folder:mine", split, root=folder, image_size=SIDE, size=size) for split in ("train", "test")]
    values = {name: len(column.unique()) for name, column in parts[0].factors.items()}
    return json.dumps({"values": values, "mean": float(parts[0].images.float().mean())})


def _reads(factor: str, values: int) -> Callable[[Outcome], str | None]:
    def judge(ended: Outcome) -> str | None:
        if ended.status != 0:
            return f"not read: {ended.err[-200:]}"
        found = json.loads(ended.out)["values"].get(factor)
        return None if found == values else f"{factor} has {found} values, not {values}"

    return judge


# --- pictures ---------------------------------------------------------------------------------------------------------


def _pictures() -> Iterator[Case]:
    grey = np.full((SIDE, SIDE), 0.5)
    refused = {
        "12 bits in 16, TIFF": lambda p: Image.fromarray((grey * 4095).astype(np.uint16)).save(p, "TIFF"),
        "32 bits of float": lambda p: Image.fromarray(grey.astype(np.float32)).save(p, "TIFF"),
        "32 bits of int": lambda p: Image.fromarray((grey * 2**20).astype(np.int32)).save(p, "TIFF"),
        "text": lambda p: p.write_text("no picture"),
        "nothing": lambda p: p.write_bytes(b""),
        "cut off": lambda p: _cut(p, 0.5),
        "cut off at the head": lambda p: _cut(p, 0.02),
        "a bomb": _bomb,
        "two pages": lambda p: _picture(0).save(p, "TIFF", save_all=True, append_images=[_picture(1)]),
        "not square": lambda p: _picture(0).resize((20, 30)).save(p, "PNG"),
        "too small": lambda p: _picture(0, 4).save(p),
        "a pickle": lambda p: torch.save({"a": 1}, p),
        "a script": lambda p: p.write_text("<svg onload=alert(1)>"),
    }
    for name, make in refused.items():
        yield Case(f"picture: {name}", _load(lambda folder, make=make: _with_picture(folder, make)))
    for name, (make, mean) in _readable().items():
        yield Case(f"picture: {name}", _load(lambda f, m=make: _with_picture(f, m, all_of_them=True)), _has_mean(mean))


def _readable() -> dict[str, tuple[Callable[[Path], None], float]]:
    """Pictures of one value each, in every form in which it can be told; and that value."""
    side = (SIDE, SIDE)
    half = np.full(side, 128, np.uint8)
    clear = np.zeros((*side, 4), np.uint8)
    return {
        "grey": (lambda p: Image.fromarray(half).save(p, "PNG"), 128),
        "one bit": (lambda p: _save(p, "1", 1), 255),
        "16 bits, PNG": (lambda p: Image.fromarray(half.astype(np.uint16) * 257).save(p, "PNG"), 128),
        "palette": (lambda p: Image.fromarray(half).convert("P").save(p, "PNG"), 128),
        "CMYK": (lambda p: _save(p, "CMYK", (0, 0, 0, 0), "TIFF"), 255),
        "clear": (lambda p: Image.fromarray(clear).save(p, "PNG"), 255),
        "grey and alpha": (lambda p: _save(p, "LA", (128, 255)), 128),
        "RGBA": (lambda p: _save(p, "RGBA", (9, 9, 9, 255)), 9),
    }


def _save(path: Path, mode: str, colour: Any, kind: str = "PNG") -> None:
    Image.new(mode, (SIDE, SIDE), colour).save(path, kind)


def _with_picture(folder: Path, make: Callable[[Path], None], all_of_them: bool = False) -> None:
    _write(
        folder,
        "\n".join(
            ["file,category,split", *(f"{i}.png,{'ab'[i % 2]},{'train' if i < 9 else 'test'}" for i in range(12))]
        ).encode(),
    )
    for i in range(9 if all_of_them else 1):
        make(folder / "mine" / f"{i}.png")


def _has_mean(wanted: float) -> Callable[[Outcome], str | None]:
    def judge(ended: Outcome) -> str | None:
        if ended.status != 0:
            return f"not read: {ended.err[-200:]}"
        found = json.loads(ended.out)["mean"]
        return None if abs(found - wanted) <= 1 else f"its pixels are {found:.0f}, not {wanted}"

    return judge


def _cut(path: Path, share: float) -> None:
    _picture(0).save(path, "PNG")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def _bomb(path: Path) -> None:
    """A picture of a few kilobytes that says it has 40,000 x 40,000 pixels."""
    Image.new("1", (40_000, 40_000)).save(path, "TIFF", compression="group4")


# --- places -----------------------------------------------------------------------------------------------------------


def _places() -> Iterator[Case]:
    def in_the_way(folder: Path) -> Outcome:
        (folder / "page.html").write_text(PRECIOUS)
        ended = run_command(["page", "--output", str(folder / "page.html")])
        return ended if (folder / "page.html").read_text() == PRECIOUS else Outcome(0, "", "")

    def edited_table(folder: Path) -> Outcome:
        _one_record(folder / "runs")
        run_command(["collect", str(folder / "runs")])
        (folder / "runs" / "table.csv").write_text(PRECIOUS)
        ended = run_command(["collect", str(folder / "runs")])
        return ended if (folder / "runs" / "table.csv").read_text() == PRECIOUS else Outcome(0, "", "")

    def foreign_folder(command: str) -> Callable[[Path], Outcome]:
        def run(folder: Path) -> Outcome:
            from ciperlib.batch.runner import folder_name

            values = {"seed": 0} if command == "sweep" else {"seed": 7}
            place = folder / "out" / folder_name(Path("notebooks/one_encoder.ipynb"), values)
            place.mkdir(parents=True)
            (place / "thesis.txt").write_text(PRECIOUS)
            pair = ["-p", "seed", str(values["seed"])]
            ended = run_command([command, "notebooks/one_encoder.ipynb", *pair, "--output", str(folder / "out")])
            return ended if (place / "thesis.txt").read_text() == PRECIOUS else Outcome(0, "", "")

        return run

    def foreign_run(folder: Path) -> Outcome:
        place = folder / "runs" / Config(train_size=48, batch_size=16, image_size=16, epochs=1).name
        place.mkdir(parents=True)
        (place / "encoder.safetensors").write_text(PRECIOUS)
        pairs = ("train_size", "48", "batch_size", "16", "image_size", "16", "epochs", "1")
        ended = _fit(*pairs)(folder)
        return ended if (place / "encoder.safetensors").read_text() == PRECIOUS else Outcome(0, "", "")

    yield Case("page over a file", in_the_way)
    yield Case("collect over an edited table", edited_table)
    yield Case("run into a folder", foreign_folder("run"))
    yield Case("sweep into a folder", foreign_folder("sweep"), _not_done)
    yield Case("fit into a folder", foreign_run)


# --- records and weights ----------------------------------------------------------------------------------------------


def _one_record(base: Path, **changed: Any) -> None:
    place = base / "one-00000000"
    place.mkdir(parents=True)
    facts = dict(notebook="one.ipynb", parameters={}, profile="smoke", status="done", folder=str(place), seconds=1.0)
    (place / "status.json").write_text(json.dumps({**facts, **changed}))


def _records() -> Iterator[Case]:
    wrong = {
        "notebook": 3,
        "parameters": [],
        "profile": None,
        "status": {},
        "folder": 1,
        "seconds": "x",
        "metrics": 3,
        "versions": [],
        "last_lines": "x",
        "files": 0,
        "more": 1,
    }
    for name, value in wrong.items():
        yield Case(f"record: {name} = {value}", lambda f, n=name, v=value: _collected(f, **{n: v}), _says_damaged)
    for name, text in {
        "half": '{"notebook": "o',
        "text": "x",
        "list": "[]",
        "deep": "[" * 100_000,
        "empty": "",
    }.items():
        yield Case(f"record: {name}", lambda f, t=text: _collected_text(f, t), _says_damaged)


def _collected(base: Path, **changed: Any) -> Outcome:
    _one_record(base / "runs", **changed)
    return run_command(["collect", str(base / "runs")])


def _collected_text(folder: Path, text: str) -> Outcome:
    _one_record(folder / "runs")
    (folder / "runs" / "one-00000000" / "status.json").write_text(text)
    return run_command(["collect", str(folder / "runs")])


def _says_damaged(ended: Outcome) -> str | None:
    return None if ended.status == 0 and "1 damaged" in ended.out else f"it says {ended.out[:99]!r} {ended.err[-99:]!r}"


def _weights() -> Iterator[Case]:
    contents: dict[str, Callable[[Path], Any]] = {
        "text": lambda p: p.write_text("weights"),
        "nothing": lambda p: p.write_bytes(b""),
        "{}": lambda p: torch.save({}, p),
        "a list": lambda p: torch.save([1, 2], p),
        "a number": lambda p: torch.save(3, p),
        "JSON": lambda p: p.write_text("{}"),
        "numbers": lambda p: torch.save({"conv1.weight": 3}, p),
        "a tensor": lambda p: torch.save(torch.zeros(3), p),
        "another network": lambda p: torch.save({"a": torch.zeros(3)}, p),
        "zeros": lambda p: p.write_bytes(bytes(999)),
        "numbered": lambda p: torch.save({1: torch.zeros(3)}, p),
        "no file": lambda p: None,
        "a folder": lambda p: p.mkdir(),
        "a code object": lambda p: p.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR."),
    }
    for suffix in (".pt", ".safetensors"):
        for name, make in contents.items():
            yield Case(f"weights: {name}{suffix}", lambda folder, m=make, s=suffix: _foreign(folder / f"w{s}", m))
    for network in (
        "timm/nothing",
        "torchvision/nothing",
        "resnet18",
        "timm/",
        "/",
        "",
        "torchvision/resnet18/x",
        "hub/x",
    ):
        yield Case(f"network: {network}", lambda folder, n=network: run_call(lambda: print(load_network(n)) or 0))


def _foreign(path: Path, make: Callable[[Path], Any]) -> Outcome:
    make(path)
    return run_call(lambda: print(load_network("torchvision/resnet18", path, image_size=32)) or 0)


# --- notebooks and profiles -------------------------------------------------------------------------------------------


def _notebooks() -> Iterator[Case]:
    damaged = {
        "text": "no notebook",
        "JSON": "{}",
        "list": "[]",
        "empty": "",
        "old": '{"nbformat": 2}',
        "half": '{"cells": [',
        "no parameters": '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
    }
    for name, text in damaged.items():
        for command in ("run", "sweep"):
            yield Case(f"{command} a notebook: {name}", lambda folder, t=text, c=command: _run_notebook(folder, t, c))
    for name, text in {
        "text": "x",
        "list": "- 1",
        "half": "a: [",
        "numbers": "config: 3",
        "tab": "\tx: 1",
        "bytes": "\x00",
    }.items():
        yield Case(f"profile: {name}", lambda folder, t=text: _with_profile(folder, t))


def _run_notebook(folder: Path, text: str, command: str) -> Outcome:
    (folder / "n.ipynb").write_text(text)
    return run_command([command, str(folder / "n.ipynb"), "-p", "seed", "0", "--output", str(folder / "out")])


def _with_profile(folder: Path, text: str) -> Outcome:
    """`fit` in a home whose profile is damaged."""
    (folder / "notebooks" / "profiles").mkdir(parents=True)
    (folder / "notebooks" / "profiles" / "mine.yml").write_text(text)
    shutil.copy("notebooks/one_encoder.ipynb", folder / "notebooks")

    def fit() -> int:
        from ciperlib import __main__, config

        config.project_root = lambda: folder
        return __main__.main(["fit", "--profile", "mine", "--root", str(folder / "runs")])

    return run_call(fit)
