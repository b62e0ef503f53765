"""What notebooks refuse in their first cells."""

import pytest

from ciperlib.batch.runner import BatchError, run
from ciperlib.config import ConfigError
from ciperlib.files import project_root
from ciperlib.present.limits import among, as_seeds, at_least


def test_numbers_have_a_lower_end():
    at_least(1, images=1, pictures=3)
    for wrong in (0, -1, 1.5, True, "1", None):
        with pytest.raises(ConfigError, match="images="):
            at_least(1, pictures=3, images=wrong)


def test_names_are_known_or_the_nearest_one_is_offered():
    among(["CIPER", "SimCLR"], only=[" CIPER "], nothing=[])
    with pytest.raises(ConfigError, match="did you mean 'SimCLR'"):
        among(["CIPER", "SimCLR"], only=["SimCRL"])


def test_seeds_are_whole_numbers_each_once():
    assert as_seeds("") is as_seeds(" ") is None
    assert as_seeds("", "0") == as_seeds("0") == as_seeds(0) == [0]
    assert as_seeds("3, 1") == [3, 1]
    for wrong in ("a", "1,,2", "-1", "1.5", "1,1", ","):
        with pytest.raises(ConfigError, match="each once"):
            as_seeds(wrong)


@pytest.mark.slow
@pytest.mark.parametrize(("stem", "wrong"), [
    ("03_saliency", {"images": 0}), ("04_embeddings", {"objects": 0}), ("06_ablations", {"only": "nobody"}),
    ("08_equivariance", {"only": "nobody"}),
])  # fmt: skip
def test_a_notebook_refuses_what_cannot_be_in_its_setup(stem, wrong, tmp_path):
    with pytest.raises(BatchError, match=rf"refused(.|\n)*ConfigError(.|\n)*{next(iter(wrong))}"):
        run(project_root() / "notebooks" / f"{stem}.ipynb", wrong, profile="smoke", output=tmp_path)
