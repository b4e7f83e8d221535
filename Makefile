# make help lists the targets. PYTHON=python3.12 chooses the interpreter that .venv is built from.
.DEFAULT_GOAL := help
.PHONY: help install run run-private test test-all test-open-webui check bench french site clean
export PYTHON
PY = "$$(bash 00-set_up/install.sh --python)"
CONF ?= cpu
# Dozens of processes import the course: what one has compiled is kept. Installing heeds the variable (00-set_up/install.sh).
PYTEST = env -u PYTHONDONTWRITEBYTECODE $(PY) -m pytest --numprocesses auto --dist worksteal

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile
install: ## install what is missing into the active environment, else into .venv
	@bash 00-set_up/install.sh
run: install ## run the course, or on your own table: make run [DATA=file | GLOSSARY=file] [CONF=cpu] [RUN=folder] [OPTIONS="--set key=value"]
	@$(PY) -m helpers.course run --conf $(CONF) $(if $(GLOSSARY),--glossary "$(GLOSSARY)") $(if $(DATA),--data "$(DATA)") $(if $(RUN),--run "$(RUN)") $(OPTIONS)
run-private: install ## the same for the notebooks on private records: CONF and RUN as above
	@$(PY) -m helpers.course run-private --conf $(CONF) $(if $(RUN),--run "$(RUN)")
test: install ## run the quick tests
	@$(PYTEST) -m "not slow"
test-all: install ## run every test, those of several minutes included
	@$(PYTEST)
test-open-webui: install ## go through a real Open WebUI, installed beside the course (3 to 6 GB)
	@$(PY) tests/open_webui.py
check: install ## check format, style and types, notebooks included
	@$(PY) -m ruff format --check . && $(PY) -m ruff check . && $(PY) -m mypy
bench: install ## measure what a private step, a busy core and writing cost, into runs/
	@$(PY) tests/bench/private_step.py
	@$(PY) tests/bench/busy_core.py
	@$(PY) tests/bench/generation.py
french: install ## write the French pages and notebooks anew from docs/fr/po
	@$(PY) docs/translate.py build
site: install ## build docs/site from the newest runs (not smoke), or from [RUN=folder] [PRIVATE=folder]; [LANGUAGE=fr] for its French
	@$(PY) -m pip install -qq --disable-pip-version-check -c 00-set_up/constraints.txt -e ".[site]"
	@$(PY) docs/site_source/build.py $(if $(RUN),--run "$(RUN)") $(if $(PRIVATE),--private "$(PRIVATE)") $(if $(filter fr,$(LANGUAGE)),--language fr)
clean: ## delete caches; runs/ and .venv stay
	@rm -rf .cache .mypy_cache .pytest_cache .ruff_cache *.egg-info; find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
