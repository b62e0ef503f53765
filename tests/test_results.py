"""RESULTS.md is made of what was published, and the README keeps what it promises."""

import contextlib
import io
import re

import pytest
from test_snapshot import published

from ciperlib.files import project_root
from ciperlib.present.published import NUMBER, TABLE, ResultsError
from ciperlib.present.results import PAGE, TABLES, as_markdown_table, pages, render_results


@pytest.mark.parametrize("page", pages())
def test_made_again_nothing_changes(page):
    """Of what git has: `make run` writes this machine's own numbers over figures/."""
    text = published(page)
    assert render_results(text, published, page) == text
    assert text.count("<!-- -->") == len(NUMBER.findall(text)), "a number's mark that is not read"


def test_every_table_is_asked_for():
    assert {name for _, name, _ in TABLE.findall(published(PAGE))} == set(TABLES)


METRICS = (
    '{"metrics": {"a: b": 0.123, "a: c": 0.5, "d (difference)": 0.1, "d (low)": -0.2, "d (high)": 0.4}, "n": {"m": 7}}'
)


@pytest.mark.parametrize(
    ("key", "form", "wanted"),
    [
        ("a: b", ".2f", "0.12"),
        ("a: b", ".0%", "12%"),
        ("d", "difference", "+0.100 [-0.200, +0.400]"),
        ("a: .", "range .1f", "0.1 to 0.5"),
        ("n > m", "d", "7"),
    ],
)
def test_a_number_in_a_sentence_is_the_published_one(key, form, wanted):
    mark = f"<!-- x | {key} | {form} -->"
    for old in ("", "9.99"):
        made = render_results(f"It is {mark}{old}<!-- -->, and {mark}{old}<!-- -->.", {"figures/x.json": METRICS}.get)
        assert made == f"It is {mark}{wanted}<!-- -->, and {mark}{wanted}<!-- -->."


@pytest.mark.parametrize("ask", ["a: z | .2f", "z | range .2f", "n > z | d", "a: b | nonsense", "d (low) | difference"])
def test_a_number_that_is_not_published_is_named(ask):
    with pytest.raises(ResultsError, match=r"number '.*' of RESULTS\.md cannot be made"):
        render_results(f"<!-- x | {ask} -->1<!-- -->", {"figures/x.json": METRICS}.get)


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
