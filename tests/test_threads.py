"""Small problems are solved by one thread, and whoever has more gets them back."""

import pytest
import torch

from ciperlib.analyse.information.explaining_away import explaining_away
from ciperlib.analyse.solvers.threads import SMALL, single_where_small, threads_for
from ciperlib.analyse.synthetic import make_world


@pytest.fixture
def _two():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_two")
def test_one_for_what_is_small_and_all_come_back():
    with threads_for(SMALL):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with threads_for(SMALL + 1):
        assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError), threads_for(1):
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("_two")
def test_what_is_fitted_to_a_small_matrix_has_one():
    world = make_world("xor", 60)
    seen = []
    single_where_small(lambda features: seen.append(torch.get_num_threads()))(world.orbits)
    assert seen == [1]


def test_the_numbers_do_not_depend_on_how_many_there_are():
    world, found = make_world("modular", 200), []
    before = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(explaining_away(world.orbits, "category", null_samples=3).to_row())
    torch.set_num_threads(before)
    assert found[0] == found[1]
