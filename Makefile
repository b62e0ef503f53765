# The environment is built once (about 6 GB) and again whenever pyproject.toml or constraints.txt changes.
PYTHON ?= python3
PIP_EXTRAS := notebooks,batch,dev
PY := .venv/bin/python
STAMP := .venv/.installed
# glibc gives large blocks back to the system at once and asks for them again: a quarter of the probes' time
export MALLOC_MMAP_THRESHOLD_ := 536870912
export MALLOC_TRIM_THRESHOLD_ := 536870912

.DEFAULT_GOAL := run
.PHONY: run workbook test prove lab page bench responsiveness validate zoo student filter clean install

run: $(STAMP)  ## notebooks 01 and 02: a page in out/ and the pictures in figures/
	$(PY) -m ciperlib run notebooks/01_training.ipynb notebooks/02_linear_probing.ipynb --publish

workbook: $(STAMP)  ## every notebook
	$(PY) -m ciperlib run $(sort $(wildcard notebooks/[0-9]*.ipynb)) --publish

test: $(STAMP)  ## the laws, the notebooks, the style; `make test ARGS='-m "not slow"'` for the quick ones
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

prove: $(STAMP)  ## the long proofs, under an hour: planted faults, bad input, kills, load in a browser; before a release
	$(PY) tests/prove.py --output figures/prove.json $(ARGS)

lab: $(STAMP)  ## JupyterLab on this machine only, with a token, on a page with the notebooks in order
	JUPYTER_CONFIG_PATH="$(CURDIR)/notebooks" $(PY) -m jupyterlab --ServerApp.ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/start.md $(ARGS)

bench: .venv/.bench  ## ratios against what one would use instead, as a table and as JSON in figures/
	$(PY) tests/benchmarks.py --output figures/benchmarks.json

responsiveness: $(STAMP)  ## how soon a slider's figure is drawn, in a real JupyterLab (needs a Chromium); as JSON in figures/
	$(PY) tests/responsiveness.py --output figures/responsiveness.json --notebooks 01 02 03 04 05

validate: $(STAMP)  ## does explaining-away find what is known? a draw of ten worlds takes ten minutes; ARGS='--seeds 0:20'
	$(PY) tests/validate.py $(ARGS)

zoo: $(STAMP)  ## train what is missing of data/zoo; stop and start it as you like
	$(PY) -m ciperlib zoo

page: $(STAMP)  ## the alpha explorer as one file, out/explorer.html, to be mailed to a class
	$(PY) -m ciperlib page

KERNEL = codemirror_mode file_extension mimetype nbconvert_exporter pygments_lexer version
filter: $(STAMP)  ## in this checkout git sees notebooks without outputs: opened, run and saved, they are unchanged
	git config filter.notebook.clean "$(PY) -m nbstripout --keep-id --extra-keys 'metadata.widgets metadata.papermill cell.metadata.papermill $(addprefix metadata.language_info.,$(KERNEL))'"
	grep -qs filter=notebook .git/info/attributes || (mkdir -p .git/info && echo '*.ipynb filter=notebook' >> .git/info/attributes)

student: $(STAMP)  ## the notebooks without their solutions, in student/; a copy that was edited is left
	$(PY) -m ciperlib student

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else "Python 3.11 to 3.13 is needed, this is %d.%d; try make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(PIP_EXTRAS)]'
	touch $@

.venv/.bench: $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(PIP_EXTRAS),bench]'
	touch $@

clean:  ## everything that can be made again, but not runs/, not student/ and not the environment
	rm -rf out data/cache .pytest_cache .ruff_cache
