"""Where the workbook lies; files that are whole or not there, and locks: the one module that knows the system.

Three kinds of files are written here. A *file* is replaced as a whole. A *sealed* JSON file carries its own checksum. A
file of one's *own* is one that a command makes again and again, and replaces only where nobody else made or edited it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SEAL = "sha256"  # the key of a sealed file's checksum, over everything else in it
MADE = ".made.json"  # in a folder: name -> SHA-256 of the last two files of that name that a command made there


class SealError(ValueError):
    """A sealed file that is missing, is no JSON object, or is not what was written."""


class NotOursError(RuntimeError):
    """A file in the way that this workbook did not make, or that was edited since."""


def project_root() -> Path:
    """The checkout that this library belongs to, or the working directory where it was installed without one."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


def place(given: str | Path | None, variable: str, default: str) -> Path:
    """A folder: what was given, else what the environment's `variable` says, else `default` in the workbook's home.
    A ~ is the user's home."""
    return Path(given or os.environ.get(variable) or project_root() / default).expanduser()


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes `path` so that nobody ever sees half of it: a temporary file beside it, then a rename.

    Where `path` is a link, what it points to is written.

    Raises:
        OSError: a full disk, an unwritable folder, or something in the way that is no file (a folder, a device); what
            was at `path` before is still there, and nothing else.
    """
    content = content.encode() if isinstance(content, str) else content
    path = Path(os.path.realpath(path))
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise FileExistsError(17, "there is something here that is no file", str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, whole or not at all."""
    write_atomically(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON object with a checksum over its content, which `read_sealed` takes off again."""
    plain = json.loads(json.dumps(value))  # as it will be read: keys are texts, tuples are lists
    write_json(path, {**plain, SEAL: _seal(plain)})


def read_sealed(path: Path) -> tuple[dict[str, Any], bool]:
    """The object of a sealed file, and whether it had a seal: files of older versions have none.

    Raises:
        SealError: no such file, no JSON object, or a seal that does not fit.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SealError(f"{path} is missing or damaged ({error})") from error
    if not isinstance(value, dict):
        raise SealError(f"{path} is damaged (it holds no JSON object)")
    seal = value.pop(SEAL, None)
    if seal is not None and seal != _seal(value):
        raise SealError(f"{path} is damaged (its checksum is wrong)")
    return value, seal is not None


def _seal(value: dict[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_own(path: Path, content: bytes | str) -> None:
    """Writes a file that is made again and again, and keeps in the folder's `.made.json` that we made it.

    Raises:
        NotOursError: another file is there, or ours was edited; it is left as it is.
        OSError: as `write_atomically`.
    """
    content = content.encode() if isinstance(content, str) else content
    path, made = Path(path), _made(Path(path).parent)
    digest, known = hashlib.sha256(content).hexdigest(), made.get(Path(path).name, [])
    if path.exists() and sha256(path) not in (digest, *known):
        raise NotOursError(
            f"{path} is left as it is: it was edited, or made by somebody else; move it away, or choose another place"
        )
    # first, and with the one before: whenever this is killed, what lies there is known as ours
    write_json(path.parent / MADE, {**made, path.name: [digest, *known][:2]})
    write_atomically(path, content)


def _made(folder: Path) -> dict[str, list[str]]:
    try:
        made = json.loads((folder / MADE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    made = made if isinstance(made, dict) else {}
    return {name: digests for name, digests in made.items() if isinstance(digests, list)}


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock(path: Path, waits: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds a file against every other process, also of another user; the lock goes with the process, however it ends.

    Args:
        waits: called again and again while another process holds it; None: nobody waits. What it raises ends the wait.

    Raises:
        BlockingIOError: another process holds it, and nobody waits.
        OSError: the file cannot be made, or belongs to somebody who shares nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the system has no locks, filelock says that it takes its own
        from filelock import FileLock, Timeout
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, mode=0o666, thread_local=False)
    while True:
        try:
            lock.acquire(blocking=False)
            break
        except Timeout as error:
            if waits is None:
                raise BlockingIOError(11, "another process holds it", str(path)) from error
            waits()
    try:
        yield
    finally:
        lock.release()


def shared_place(name: str) -> Path:
    """A file's place that all users of this machine share."""
    import tempfile

    return Path(tempfile.gettempdir()) / name


def new_group() -> dict[str, Any]:
    """Options of `subprocess.Popen` that make a child the head of a group which `end_group` ends as a whole, and that,
    on Linux, lets no child outlive this process."""
    if os.name != "posix":
        return {}
    parent, libc = os.getpid(), _libc()

    def die_with_parent() -> None:
        if libc is not None:
            libc.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
            if os.getppid() != parent:  # it died before
                os._exit(1)

    return {"start_new_session": True, "preexec_fn": die_with_parent}


def end_group(pid: int, hard: bool) -> bool:
    """Asks the group of `pid` to end, or ends it (`hard`); False where nothing of it is left.

    Where the system has no groups, its process and all that came of it.
    """
    try:
        if os.name == "posix":
            os.killpg(pid, signal.SIGKILL if hard else signal.SIGTERM)
        else:
            _end_tree(pid, hard)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group that is all zombies
        return False
    return True


def _end_tree(pid: int, hard: bool) -> None:
    import psutil  # in the batch part only: what trains on a bare machine has no children

    try:
        head = psutil.Process(pid)
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError(pid) from error
    for process in (*head.children(recursive=True), head):
        with suppress(psutil.NoSuchProcess):
            process.kill() if hard else process.terminate()


def cpu_flags() -> set[str]:
    """What this CPU can do, in the words of Linux; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def _libc():
    """Linux's C library, loaded before anything forks; None elsewhere."""
    if sys.platform != "linux":
        return None
    import ctypes

    return ctypes.CDLL(None)
