# make serve: set up and run the whole system.  make test: set up and pass the tests.
.PHONY: env system serve test lint types lock clean
.DEFAULT_GOAL := serve

env:
	@bash deploy/environment.sh

serve: env
	@.venv/bin/zephyra serve $(ARGS)

system:
	@bash deploy/system.sh

test: env system
	.venv/bin/pytest $(ARGS)

lint: env
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: env
	.venv/bin/mypy

lock: env
	@bash deploy/lock.sh

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
