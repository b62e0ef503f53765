"""The table of planted faults does not rot: each can be planted today, and each is to be seen by a test there is."""

import pytest
from planted import FAULTS, Fault, draw, stale


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_fault_can_be_planted(fault):
    assert stale(fault) is None
    assert fault.new != fault.old


def test_faults_have_names_of_their_own_and_a_share_of_them_can_be_drawn():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert draw(0.2, 0) == draw(0.2, 0) != draw(0.2, 1)
    assert len(draw(0.2, 0)) == round(0.2 * len(FAULTS))
    assert draw(1, 0) == list(FAULTS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"old": "text that is nowhere"}, "found 0 times"),
        ({"old": "import torch"}, "found 2 times"),
        ({"tests": "test_batches.py::test_of_nothing"}, "is no test"),
    ],
)
def test_an_entry_that_no_longer_fits_is_an_error(change, words):
    fault = Fault("made", "learn/methods/losses.py", "EPSILON = 1e-5", "EPSILON = 1e-1", "test_losses.py")
    assert stale(fault) is None
    assert words in stale(fault._replace(**change))
