"""The long proofs can fail: what they look for is found where it is planted."""

import json
import re

import pytest
from proofs import bad_input, configs, cpu, flips, longer, system
from proofs.trial import Outcome, draw, run_call, run_command

from ciperlib.files import SEAL
from ciperlib.learn import training
from ciperlib.learn.runs import RunError


def test_there_are_five_hundred_bad_inputs_each_with_its_own_name():
    names = [case.name for case in bad_input.all_cases()]
    assert len(names) >= 500
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("ended", "words"), [
    (Outcome(None, "", ""), "hangs"), (Outcome(0, "done", ""), "silently accepted"), (Outcome(1, "", "x"), "exit 1"),
    (Outcome(1, "", "Traceback (most recent call last):\nKeyError: 'a'"), "traceback"),
    (Outcome(2, "", "usage: ...\nciperlib: no"), "not one sentence"), (Outcome(2, "", ""), "not one sentence"),
])  # fmt: skip
def test_what_is_no_refusal_is_told_apart(ended, words):
    assert words in ended.refusal()
    assert Outcome(2, "", "ciperlib: alpha=-1 is out of range\n").refusal() is None


def fail(error):
    raise error


def test_a_call_ends_as_the_command_line_would_end_it():
    assert run_call(lambda: fail(RunError("no run"))) == Outcome(2, "", "ciperlib: no run\n")
    assert "Traceback" in run_call(lambda: fail(KeyError("a"))).err
    assert run_call(lambda: print("x")) == Outcome(0, "x\n", "")
    assert run_call(lambda: __import__("time").sleep(60), seconds=0.2).refusal() == "hangs"
    assert run_call(lambda: __import__("os").kill(__import__("os").getpid(), 9)).refusal().startswith("traceback")
    assert run_command(["fit", "-p", "alpah", "1"]).refusal() is None


def test_a_share_is_drawn_by_its_seed():
    cases = list(range(100))
    assert draw(cases, 0.2, 0) == draw(cases, 0.2, 0) != draw(cases, 0.2, 1)
    assert len(draw(cases, 0.2, 0)) == 20
    assert draw(cases, 1, 5) == cases
    assert len(draw(cases, 0, 0)) == 1


def test_a_crash_of_an_accepted_config_is_found(monkeypatch):
    counts = configs.prove(0.003, 0)
    assert (counts["tried"], counts["found"]) == (3, [])
    monkeypatch.setattr(training.Trainer, "check_encoder", lambda trainer: 1 / 0)
    assert "ZeroDivisionError" in configs.prove(0.001, 0)["found"][0]


def test_a_flipped_bit_that_is_read_is_found(monkeypatch):
    assert flips.prove(0.01, 0)["found"] == []

    def trust(path):
        value = json.loads(path.read_text())
        return {name: value[name] for name in value if name != SEAL}, True

    monkeypatch.setattr("ciperlib.learn.runs.read_sealed", trust)
    assert any("changed facts" in found for found in flips.prove(0.05, 0)["found"])


def test_a_slow_epoch_and_the_wrong_precision_are_found(monkeypatch):
    seconds = iter([("bf16", 1.0), ("bf16", 4.0)] * 3)
    monkeypatch.setattr(cpu, "_epoch", lambda environment: next(seconds))
    monkeypatch.setattr(cpu, "has_fast_bf16", lambda device: True)
    found = cpu.prove(1, 0)["found"]
    assert found[0] == "4.00 times as long"
    assert found[1:] == ["trained in bf16"] * 3


def test_what_fails_without_fcntl_or_among_the_longer_tests_is_found(tmp_path):
    path = tmp_path / "test_planted.py"
    path.write_text(
        "import pytest\n\n\ndef test_locks():\n    import fcntl\n\n\ndef test_nothing():\n    pass\n\n\n"
        "@pytest.mark.long\n@pytest.mark.slow\ndef test_long():\n    assert 0\n"
    )
    (found,) = system.failing([path])
    assert re.match(r"FAILED .*test_locks", found)
    (found,) = longer.failing([path])
    assert re.match(r"FAILED .*test_long", found)
