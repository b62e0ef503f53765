"""The notebooks: well formed, without outputs, and every cell runs (smoke profile), with their metrics asserted."""

import ast
import json
import math
import re

import nbformat
import pytest
from books import LONG, NOTEBOOKS, SHIPPED, cells, each_notebook
from conftest import real_data
from safetensors.torch import save_file
from torchvision import models

from ciperlib.batch import runner
from ciperlib.config import Config
from ciperlib.files import project_root
from ciperlib.learn.zoo import find_run

ELSEWHERE = {  # an encoder that joins the notebook's own, and what is said of it
    "02_linear_probing": ("torchvision/resnet18@{checkpoint}", ("category", "object", "session", "pose")),
    "03_saliency": ("timm/resnet10t", ("accuracy", "map on the object", "occlusion on the object")),
    "04_embeddings": ("{run}", ("kept, PaCMAP", "trustworthiness, PCA", "order in h")),
    "05_explaining_away": ("torchvision/resnet18", ("value_nats", "forward_nats", "level_entropy_nats")),
    "08_equivariance": ("timm/resnet10t", ("invariance_error", "decodable", "r2_gain")),
    "09_splitting_the_representation": ("torchvision/resnet18", ("object", "invariance_error")),
}


@each_notebook
def test_form(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    code = cells(path, "code")
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert all(re.fullmatch(r"[a-z0-9-]+", cell.id) for cell in cells(path))
    (parameters,) = cells(path, "code", "parameters")
    for line in parameters.source.splitlines():
        assert re.fullmatch(r"\w+ = .+  # .+", line), line
    declared = {line.split(" = ")[0] for line in parameters.source.splitlines()}
    assert {"device", "interactive"} <= declared
    assert cells(path)[0].source.startswith("# ")
    assert cells(path)[0].source.splitlines()[0].endswith("?")


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FOLDED = {"imports", "parameters", "bookkeeping"}  # what a reader need not read


@each_notebook
def test_cells_can_be_read(path):
    for cell in cells(path, "code"):
        long = [line for line in cell.source.splitlines() if len(line) > 110]
        assert not long, f"{cell.id}: {long}"
        outer = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, COMPREHENSIONS)]
        nested = [node for node in outer if any(isinstance(part, COMPREHENSIONS) for part in list(ast.walk(node))[1:])]
        assert not nested, f"{cell.id}: {ast.unparse(nested[0])}"


@each_notebook
def test_what_is_no_part_of_the_argument_is_folded(path):
    for cell in cells(path, "code"):
        folded = bool(FOLDED & set(cell.metadata.get("tags", [])))
        assert cell.metadata.get("jupyter", {}).get("source_hidden", False) == folded, cell.id
        assert folded or not re.search(r"^(import|from|record_metrics)\b", cell.source, re.M), cell.id
    shown = [cell.id for cell in cells(path, "code") if re.search(r"(show|plot)_report\(", cell.source)]
    assert len(shown) <= 1


@each_notebook
def test_profiles_name_declared_parameters_only(path):
    declared = runner.declared_parameters(path)
    for profile in ("smoke", "teaching", "paper"):
        assert runner.profile_parameters(profile, path.stem).keys() <= declared.keys()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Each notebook once, in the smoke profile, those that can with an encoder from elsewhere: stem -> record."""
    output = tmp_path_factory.mktemp("out")
    found = {"checkpoint": output / "net.safetensors", "run": find_run(Config()).folder}
    save_file(models.resnet18(weights=None).state_dict(), found["checkpoint"])
    joins = {stem: {"encoder": name.format(**found)} for stem, (name, _) in ELSEWHERE.items()}
    return {path.stem: runner.run(path, joins.get(path.stem), profile="smoke", output=output) for path in NOTEBOOKS}


@pytest.mark.parametrize("stem", ELSEWHERE)
@pytest.mark.slow
def test_an_encoder_from_elsewhere_enters_every_analysis(smoke, stem):
    metrics = smoke[stem].metrics
    for measure in ELSEWHERE[stem][1]:
        found = [value for name, value in metrics.items() if name.startswith(f"{measure}: external")]
        assert found
        assert all(map(math.isfinite, found))


@pytest.mark.slow
def test_training(smoke):
    record = smoke["01_training"]
    metrics = record.metrics
    assert metrics["contrastive_last"] < metrics["contrastive_first"]
    assert -0.5 < metrics["mean_r2_random"] < 1
    assert -0.5 < metrics["mean_r2_ciper"] < 1


@pytest.mark.slow
def test_linear_probing(smoke):
    record = smoke["02_linear_probing"]
    metrics = record.metrics
    assert metrics["encoders"] == 8
    assert metrics["category: shuffled labels"] < 0.25
    assert metrics["session: random encoder"] > 3 * metrics["session: shuffled labels"]
    assert 0 <= metrics["object: CIPER, pose aug."] <= 1


@pytest.mark.slow
def test_saliency(smoke):
    metrics = smoke["03_saliency"].metrics
    assert metrics["encoders"] == 6
    assert metrics["verdict, reads the object alone, random labels"] == "nothing"
    assert 0 < metrics["coordinates of the map: CIPER"] < 0.3
    assert 0.1 < metrics["area"] < 0.4


@pytest.mark.slow
def test_embeddings(smoke):
    metrics = smoke["04_embeddings"].metrics
    assert metrics["kept, PaCMAP, shuffled: CIPER"] < metrics["kept, PaCMAP: CIPER"]
    assert metrics["order in h: CIPER"] > 0.8


@pytest.mark.slow
def test_explaining_away(smoke):
    metrics = smoke["05_explaining_away"].metrics
    assert metrics["encoders"] == 3
    assert metrics["pupils"] == 4
    assert metrics["value_nats: the 9 is a turned 6"] == pytest.approx(math.log(2), abs=0.03)
    assert metrics["forward_nats: quadrant"] > 0.4 > 0.1 > metrics["value_nats: quadrant"]
    assert metrics["level_entropy_nats, lesson: identity"] > 1.3
    assert metrics["unknown, lesson: grayscale"] < 0.1


@pytest.mark.slow
def test_ablations_by_a_sweep_of_their_own(smoke):
    record = smoke["06_ablations"]
    assert (record.metrics["runs"], record.metrics["kinds"], record.metrics["failed"]) == (2, 2, 0)
    assert len(list((project_root() / record.folder / "sweep").glob("one_encoder-*/status.json"))) == 2
    assert 0 <= record.metrics["object: CIPER"] <= 1


@pytest.mark.slow
def test_pages_hold_no_widget_state_and_show_every_figure(smoke):
    for stem, record in smoke.items():
        folder = project_root() / record.folder
        page = (folder / f"{stem}.html").read_text()
        executed = json.loads((folder / f"{stem}.ipynb").read_text())
        assert "widgets" not in executed["metadata"]
        figures = sum("save_figure(" in "".join(cell["source"]) for cell in executed["cells"]) - 1  # less the import
        shown = page.count('<img alt="') + page.count("plotly-graph-div") + page.count("data:image/png;base64")
        assert shown >= figures


@pytest.mark.slow
@pytest.mark.parametrize("path", [NOTEBOOKS[0], *(pytest.param(path, marks=LONG) for path in NOTEBOOKS[1:])])
def test_plain_papermill(path, tmp_path):
    import papermill

    values = {**runner.profile_parameters("smoke", path.stem), **SHIPPED.get(path.stem, {})}
    papermill.execute_notebook(str(path), str(tmp_path / "out.ipynb"), {**values, "interactive": False},
                               cwd=str(project_root()), progress_bar=False)  # fmt: skip


@pytest.mark.slow
def test_linear_probing_on_cifar10(tmp_path):
    real_data("cifar-10-batches-py")
    path = project_root() / "notebooks" / "02_linear_probing.ipynb"
    record = runner.run(path, {"dataset": "cifar10"}, profile="smoke", output=tmp_path)
    assert record.metrics["category: CIPER, image aug."] > record.metrics["category: shuffled labels"]
    assert not any("pose" in name for name in record.metrics)


@pytest.mark.slow
@pytest.mark.long
def test_explaining_away_on_cifar10(tmp_path):
    """No encoder in the zoo, so they are trained; here for one epoch."""
    real_data("cifar-10-batches-py")
    values = {"dataset": "cifar10", "epochs": 1, "train_size": 300, "batch_size": 100, "width": 8, "images": 200}
    values |= {"only": "", "lessons": ""}
    record = runner.run(
        project_root() / "notebooks" / "05_explaining_away.ipynb", values, profile="smoke", output=tmp_path
    )
    assert record.metrics["pupils"] == 3  # rotation with and without image augmentation, and grayscale
    assert record.metrics["level_entropy_nats: CIPER, image aug."] <= math.log(4) + 0.05


@pytest.mark.slow
@pytest.mark.parametrize("stem", [pytest.param("03_saliency", marks=pytest.mark.long), "04_embeddings"])
def test_photographs_of_objects(stem, tmp_path):
    """ETH-80: no encoder in the zoo, so they are trained; here for one epoch."""
    real_data("eth80-64")
    values = {"dataset": "eth80", "epochs": 1, "train_size": 600}
    record = runner.run(project_root() / "notebooks" / f"{stem}.ipynb", values, profile="smoke", output=tmp_path)
    assert len(record.metrics) > 10
