"""Files that are whole or not there, seals, files of one's own, locks; and a library that knows no fcntl."""

import json
import os
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path

import pytest

from ciperlib.files import (
    MADE,
    NotOursError,
    SealError,
    end_group,
    lock,
    new_group,
    place,
    project_root,
    read_sealed,
    write_atomically,
    write_own,
    write_sealed,
)


def test_a_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null"), tmp_path):
        with pytest.raises(FileExistsError, match="no file"):
            write_atomically(path, "x")
    assert Path("/dev/null").is_char_device()


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomically(tmp_path / "link", "after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "after"


def test_a_tilde_in_a_variable_is_the_user_s_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("CIPER_RUNS", "CIPER_ZOO", "CIPER_DATA"):
        monkeypatch.setenv(variable, "~/x")
        assert place(None, variable, "x") == tmp_path / "x"
    assert place("~/given", "CIPER_RUNS", "x") == tmp_path / "given"
    monkeypatch.delenv("CIPER_RUNS")
    assert place(None, "CIPER_RUNS", "runs") == project_root() / "runs"


def test_every_flipped_bit_of_a_sealed_file_is_noticed_or_changes_nothing(tmp_path):
    path, value = tmp_path / "x.json", {"a": 1.5, "b": ["x", None, True], "c": {"é": "ü"}}
    write_sealed(path, value)
    whole = path.read_bytes()
    for place_of_it in range(8 * len(whole)):
        content = bytearray(whole)
        content[place_of_it // 8] ^= 1 << place_of_it % 8
        path.write_bytes(content)
        try:
            found, sealed = read_sealed(path)
        except SealError:
            continue
        assert found == value or not sealed  # whoever reads a file without a seal looks at what is in it


def test_what_is_no_json_object_is_said(tmp_path):
    path = tmp_path / "x.json"
    for text in ("", "[]", "3", "{", "[" * 100_000, "\x00"):
        path.write_text(text)
        with pytest.raises(SealError, match="damaged"):
            read_sealed(path)
    with pytest.raises(SealError, match="missing"):
        read_sealed(tmp_path / "nothing")


def test_a_file_of_one_s_own_is_replaced_until_somebody_edits_it(tmp_path):
    path = tmp_path / "table.csv"
    write_own(path, "1")
    write_own(path, "2")
    assert path.read_text() == "2"
    path.write_text("edited")
    with pytest.raises(NotOursError, match="left as it is"):
        write_own(path, "3")
    assert path.read_text() == "edited"
    write_own(tmp_path / "other", "1")
    (tmp_path / MADE).write_text("damaged")  # then nobody knows whose it is
    with pytest.raises(NotOursError):
        write_own(tmp_path / "other", "2")
    write_own(tmp_path / "other", "1")  # it says already what it shall


@pytest.mark.parametrize("killed", [True, False])
def test_a_command_that_is_killed_as_it_writes_knows_its_file_again(killed, tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    write_own(path, "1")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) if killed else nullcontext():
        if killed:
            patch.setattr("ciperlib.files.write_atomically", stop_at(path))
        write_own(path, "2")
    write_own(path, "3")
    assert path.read_text() == "3"


def stop_at(path):
    def write(target, content):
        if target == path:
            raise KeyboardInterrupt
        write_atomically(target, content)

    return write


def test_a_lock_is_held_once_and_goes_with_its_process(tmp_path):
    path = tmp_path / "lock"
    code = f"import time\nfrom pathlib import Path\nfrom ciperlib.files import lock\nwith lock(Path({str(path)!r})):\n"
    child = subprocess.Popen(
        [sys.executable, "-c", code + " print('held', flush=True)\n time.sleep(60)"], stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(BlockingIOError), lock(path):
        pass

    def kill() -> None:
        child.kill()
        child.wait()

    with lock(path, kill):  # waits, and has it once the other one is gone
        assert child.returncode is not None
    child.stdout.close()


def test_a_group_ends_with_its_children():
    code = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('x', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, **new_group())
    child.stdout.readline()
    assert end_group(child.pid, hard=True)
    assert child.stdout.read() == b""  # whoever has the pipe open is gone
    child.wait()
    child.stdout.close()
    assert not end_group(2**22 - 1, hard=True)  # nobody


def test_only_one_module_knows_the_system():
    """fcntl, prctl, process groups and the temporary folder are other systems' stumbling blocks."""
    words = ("fcntl", "prctl", "killpg", "setsid", "start_new_session", "gettempdir", "/tmp", "preexec_fn", "/proc/")
    for path in (project_root() / "ciperlib").rglob("*.py"):
        if path.name != "files.py":
            found = [word for word in words if word in path.read_text()]
            assert not found, f"{path} knows {found}"


WITHOUT_FCNTL = """
import sys, warnings
sys.modules["fcntl"] = None  # as on Windows
warnings.simplefilter("error")
from ciperlib.config import Config
from ciperlib.learn.training import fit
from ciperlib.files import lock
from pathlib import Path
run = fit(Config(**{tiny}), sys.argv[1], progress="none", device="cpu")
assert fit(Config(**{tiny}), sys.argv[1], progress="none").name == run.name
with lock(Path(sys.argv[1]) / "lock"):
    try:
        with lock(Path(sys.argv[1]) / "lock"):
            print("twice")
    except BlockingIOError:
        print("once")
import ciperlib.batch.sweep, ciperlib.present.notebook, ciperlib.__main__
"""


def test_the_library_trains_where_there_is_no_fcntl(tmp_path):
    from conftest import TINY

    code = textwrap.dedent(WITHOUT_FCNTL).format(tiny=json.dumps({**TINY, "epochs": 1}))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "once"
