"""RESULTS.md is made of what was published, and the README keeps what it promises."""

import contextlib
import io
import re

import pytest
from test_snapshot import published

from ciperlib.files import project_root
from ciperlib.present import results
from ciperlib.present.results import PAGE, TABLES, ResultsError, as_markdown_table, render_results


def test_made_again_nothing_changes():
    """Of what git has: `make run` writes this machine's own numbers over figures/."""
    text = published(PAGE)
    assert render_results(text, published) == text
    assert {name for _, name, _ in results.MARK.findall(text)} == set(TABLES)


def test_another_number_is_another_table():
    def read(path):
        return published(path).replace('"object: pixels": 0.', '"object: pixels": 9.')

    assert "| pixels | 0.56 | 9." in render_results(published(PAGE), read)


def test_words_between_the_tables_are_kept():
    text = "before <!-- not a mark -->\n<!-- table: waits -->\nold\n<!-- end -->\nafter"
    made = render_results(text, published)
    assert made.startswith("before <!-- not a mark -->\n<!-- table: waits -->\n| what |")
    assert made.endswith("|\n<!-- end -->\nafter")
    assert "old" not in made


def test_a_table_that_cannot_be_made_is_named():
    with pytest.raises(ResultsError, match="asks for a table 'nonsense'"):
        render_results("<!-- table: nonsense -->\n<!-- end -->", published)
    with pytest.raises(ResultsError, match=r"'waits' of RESULTS\.md cannot be made"):
        render_results("<!-- table: waits -->\n<!-- end -->", lambda path: '{"rows": {}}')


def test_tables_are_markdown():
    assert as_markdown_table(["a", "b"], [[1, "x"]]) == "| a | b |\n|---|---|\n| 1 | x |"


def readme():
    return (project_root() / "README.md").read_text()


def test_the_readme_is_short():
    assert len(readme().encode()) <= 10_000


def test_every_link_leads_somewhere():
    for name in ("README.md", PAGE, "notebooks/README.md", "CONTRIBUTING.md"):
        page = project_root() / name
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), (name, link)


@pytest.mark.slow
def test_the_library_s_ten_lines_work_as_printed():
    (code,) = re.findall(r"```python\n(.*?)```", readme(), re.S)
    assert len(code.strip().splitlines()) <= 12
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "README.md", "exec"), {})
    assert re.search(r"object +CIPER, image aug\. +0\.83 \[", said.getvalue())
    assert "CIPER, image aug. minus SimCLR, image aug." in said.getvalue()
