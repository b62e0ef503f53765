"""The copies for students: without the solutions, and every cell runs but those that wait for an answer."""

import pytest
from books import LONG, NOTEBOOKS, SHIPPED, cells

from ciperlib.batch import runner
from ciperlib.files import project_root
from ciperlib.present.exercises import SOLUTION_TAG, write_student_copies

SLOWEST = ("03", "05", "08")


def test_student_copies_lack_the_solutions_and_nothing_else(tmp_path):
    copies, _ = write_student_copies(project_root() / "notebooks", tmp_path)
    assert [copy.name for copy in copies] == [path.name for path in NOTEBOOKS]
    for source, copy in zip(NOTEBOOKS, copies):
        kept = [cell.source for cell in cells(source) if SOLUTION_TAG not in cell.metadata.get("tags", [])]
        assert cells(source, tag=SOLUTION_TAG)
        assert [cell.source for cell in cells(copy)] == kept


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=LONG if path.stem[:2] in SLOWEST else ()) for path in NOTEBOOKS]
)
def test_a_student_copy_fails_at_its_checker_and_goes_on(path, tmp_path):
    """The stub must not pass: a checker that accepts it would teach nothing. What comes after it is run, too."""
    copies, _ = write_student_copies(project_root() / "notebooks", tmp_path)
    (copy,) = [copy for copy in copies if copy.name == path.name]
    with pytest.raises(runner.BatchError, match=r"Not yet|NameError"):
        runner.run(copy, SHIPPED.get(path.stem), profile="smoke", output=tmp_path / "out")
    (executed,) = (tmp_path / "out").glob(f"{path.stem}*/{path.name}")
    assert all(cell.execution_count for cell in cells(executed, "code"))
    errors = [output for cell in cells(executed, "code") for output in cell.outputs if output.output_type == "error"]
    assert errors[0].ename == "ExerciseError"
    assert all(error.ename == "NameError" for error in errors[1:])  # of what the answer was to make
