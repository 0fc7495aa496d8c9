# Targets: `make help` lists them. DESTDIR, PREFIX and SYSCONFDIR as usual; an install only reads the sources.

PYTHON ?= python3
PREFIX ?= /usr
SYSCONFDIR ?= /etc
BUILD ?= build/spank
# Where the system's Python has its packages, with colons between the directories.
PACKAGES ?= /usr/lib/python3/dist-packages
# What compiles the Python files once they are installed; a package does that where it is installed.
BYTECODE ?= python3 -m compileall -q
ROUNDS ?= 50
# The Debian release of the test clusters' nodes.
SUITE ?= trixie

VENV := .venv
RUN := $(VENV)/bin/python
LIBDIR := $(PREFIX)/lib/oci-criu-shim
SHAREDIR := $(PREFIX)/share/oci-criu-shim
MANDIR := $(PREFIX)/share/man
# Programs in Python without a suffix.
TOOLS := tools/config_toml tools/kept_md tools/man_command tools/man_config tools/roff.py
# Namespaces and overlays need root; what doesn't is run before, as whoever calls.
AS_ROOT = $(if $(filter 0,$(shell id -u)),,sudo) env SUITE=$(SUITE)

help:
	@echo 'make demo     a job on a small Slurm cluster is preempted, and goes on elsewhere (root)'
	@echo 'make test     all tests: check, the plugin, conformance to OCI, containers on a node, a live Slurm cluster, another kernel (root)'
	@echo 'make live     only the part of test that needs root'
	@echo 'make test-all  test, and live on the other Debian too (root)'
	@echo 'make chaos    jobs of which something is killed at random: ROUNDS=50 of them, SEED= of an earlier run (root)'
	@echo 'make transcript  write docs/first-quarter.md anew, from a live cluster (root)'
	@echo 'make programs  preempt real programs, write docs/programs.md: PROGRAM="redis go" for some of them (root)'
	@echo 'make kernels  find out what works with which kernel and CRIU, write docs/kernels.md: an hour (root)'
	@echo 'make bench    measure start-up, preemption, what it costs; draw build/bench/report.html: BENCH=startup for a part,'
	@echo '              BENCH=disk PROGRAM="hpl lammps" RUNS=5 for some of the programs of that part (root)'
	@echo '              any of these with SUITE=forky: on nodes of another Debian than $(SUITE)'
	@echo 'make check    linters, types and unit tests: seconds, no root'
	@echo 'make man      make the manual pages in build/man'
	@echo 'make install  install on this node: PREFIX=$(PREFIX) SYSCONFDIR=$(SYSCONFDIR) DESTDIR=$(DESTDIR)'
	@echo 'make uninstall, make clean'

# The tools of the extras `dev` in pyproject.toml, and what the package itself depends on.
$(VENV)/.ready: pyproject.toml
	./tools/venv $(VENV) $(PYTHON)
	touch $@

# Shell scripts, and what has prose in it.
SCRIPTS = $(wildcard spank/*.sh tests/*/*.sh tests/*/*/*.sh etc/slurm-oci/* debian/*.prerm debian/*.postrm) \
	etc/named-by-slurm tools/venv tools/slurm_release .ci/run
SPELLED = src spank etc debian packaging docs tests bench tools Makefile pyproject.toml *.md

check: $(VENV)/.ready
	$(RUN) -m ruff check src tests bench $(TOOLS)
	$(RUN) -m ruff format --check --quiet src tests bench $(TOOLS)
	$(RUN) -m mypy --scripts-are-modules src tests bench $(TOOLS)
	$(VENV)/bin/clang-format --dry-run -Werror spank/*.[ch] tests/plugin/*.c
	$(VENV)/bin/shellcheck $(SCRIPTS)
	$(RUN) -m codespell_lib $(SPELLED)
	$(RUN) -m pytest -q -n auto tests/unit

test: check live

# Root's part is run by absolute names: sudo has a PATH of its own. What takes longest begins first.
live: $(VENV)/.ready
	$(AS_ROOT) $(abspath $(RUN)) -B -m pytest -p no:cacheprovider -n 5 --dist loadfile --no-loadscope-reorder \
		tests/vm/test_machine.py tests/slurm tests/engines tests/plugin tests/node tests/conformance

# Both platforms, for an hour. What runs on this machine depends on neither, and runs once.
test-all: test
	$(MAKE) live SUITE=forky

chaos: $(VENV)/.ready
	$(AS_ROOT) CHAOS_ROUNDS=$(ROUNDS) $(if $(SEED),CHAOS_SEED=$(SEED)) \
		$(abspath $(RUN)) -B -m pytest -p no:cacheprovider -s tests/slurm/test_chaos.py

demo: $(VENV)/.ready
	@$(AS_ROOT) $(abspath $(RUN)) -B -m tests.demo

# What a user types and sees, for docs/: anew if more than numbers has changed.
transcript: $(VENV)/.ready
	@$(AS_ROOT) $(abspath $(RUN)) -B -m tests.transcript

# Real programs from Debian, each preempted once: minutes, and some GB of disk.
programs: $(VENV)/.ready
	@$(AS_ROOT) $(abspath $(RUN)) -B -m tests.programs $(PROGRAM)

# What works with which kernel and CRIU: the virtual machine is slow, so this takes an hour.
kernels: $(VENV)/.ready
	@$(AS_ROOT) $(abspath $(RUN)) -B -m tests.kernels

bench: $(VENV)/.ready
	@$(AS_ROOT) $(abspath $(RUN)) -B -m bench $(BENCH) $(if $(PROGRAM),--program $(PROGRAM)) $(if $(RUNS),--runs $(RUNS))

# Manual pages, made from the texts that the program itself has. An install makes them where they are to be.
MAN1 = build/man
MAN5 = build/man
man:
	install -d $(MAN1) $(MAN5)
	$(PYTHON) -B tools/man_config >$(MAN5)/oci-criu-shim-config.5
	$(PYTHON) -B tools/man_command >$(MAN1)/oci-criu-shim.1
	chmod 0644 $(MAN5)/oci-criu-shim-config.5 $(MAN1)/oci-criu-shim.1

install:
	# If it can't be built, what is installed stays as it is.
	$(MAKE) -C spank PREFIX=$(PREFIX) BUILD=$(abspath $(BUILD))
	install -d $(DESTDIR)$(LIBDIR) $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(SHAREDIR)
	rm -f $(DESTDIR)$(LIBDIR)/FILES
	install -m 0644 src/worker.py src/slurm_bundle.py src/scrun_bundle.py $(DESTDIR)$(LIBDIR)
	# No module of an earlier version stays beside those of this one.
	rm -rf $(DESTDIR)$(LIBDIR)/oci_criu_shim
	set -e; cd src; find oci_criu_shim -name '*.py' -o -name '*.json' -o -name '*.html' | while read -r file; do \
		install -D -m 0644 "$$file" "$(DESTDIR)$(LIBDIR)/$$file"; done
	install -m 0755 src/task.py $(DESTDIR)$(LIBDIR)/task
	cd $(DESTDIR)$(LIBDIR); sed -i 's,/usr/lib/python3/dist-packages,$(PACKAGES),' \
		task slurm_bundle.py oci_criu_shim/host/criu.py
	# Start-up is a third faster with it, but an install on a read-only or odd Python does without.
	-umask 022; $(BYTECODE) -s '$(DESTDIR)' -p / $(DESTDIR)$(LIBDIR)
	install -m 0755 src/launcher.py $(DESTDIR)$(PREFIX)/bin/oci-criu-shim
	sed -i $(PLACES) $(DESTDIR)$(PREFIX)/bin/oci-criu-shim
	sed $(PLACES) etc/named-by-slurm | install -m 0755 /dev/stdin $(DESTDIR)$(LIBDIR)/named-by-slurm
	$(MAKE) -C spank install PREFIX=$(PREFIX) DESTDIR=$(DESTDIR) BUILD=$(abspath $(BUILD))
	set -e; cd etc; for file in oci.conf.d/*.conf slurm-oci/* scrun.lua cli_filter.lua; do \
		mode=0644; test ! -x "$$file" || mode=0755; \
		install -D -m "$$mode" "$$file" "$(DESTDIR)$(SYSCONFDIR)/oci-criu-shim/$$file"; \
		sed -i $(PLACES) "$(DESTDIR)$(SYSCONFDIR)/oci-criu-shim/$$file"; done
	# The site's own settings stay.
	test -e $(DESTDIR)$(SYSCONFDIR)/oci-criu-shim/config.toml || \
		install -D -m 0644 etc/config.toml $(DESTDIR)$(SYSCONFDIR)/oci-criu-shim/config.toml
	cd etc; find image -type f -exec install -D -m 0644 {} $(DESTDIR)$(SHAREDIR)/{} \;
	sed $(PLACES) etc/plugstack.conf | install -m 0644 /dev/stdin $(DESTDIR)$(SHAREDIR)/plugstack.conf
	$(MAKE) man MAN1=$(DESTDIR)$(MANDIR)/man1 MAN5=$(DESTDIR)$(MANDIR)/man5
	# What `doctor` looks for. It comes last: without it, the installation is not whole.
	cd $(DESTDIR)$(LIBDIR); find . -type f ! -name '*.pyc' ! -name FILES -printf '%m %P\n' | sort -k 2 | install -m 0644 /dev/stdin FILES

# The sources name the usual places; an install puts in its own.
PLACES = -e 's,/usr/bin/oci-criu,$(PREFIX)/bin/oci-criu,; s,/usr/lib/oci-criu-shim,$(LIBDIR),' \
	-e 's,/etc/oci-criu-shim/,$(SYSCONFDIR)/oci-criu-shim/,; s,/usr/lib/python3/dist-packages,$(PACKAGES),'

uninstall:
	@sed $(PLACES) etc/named-by-slurm | sh -s -- '$(DESTDIR)'
	rm -rf $(DESTDIR)$(LIBDIR) $(DESTDIR)$(SHAREDIR)
	rm -f $(DESTDIR)$(PREFIX)/bin/oci-criu-shim
	rm -f $(DESTDIR)$(MANDIR)/man1/oci-criu-shim.1 $(DESTDIR)$(MANDIR)/man5/oci-criu-shim-config.5
	set -e; cd etc; for file in oci.conf.d/* slurm-oci/* scrun.lua cli_filter.lua; do \
		rm -f "$(DESTDIR)$(SYSCONFDIR)/oci-criu-shim/$$file"; done; \
		! cmp -s config.toml $(SETTINGS)/config.toml || rm $(SETTINGS)/config.toml
	@rmdir $(SETTINGS)/oci.conf.d $(SETTINGS)/slurm-oci $(SETTINGS) 2>/dev/null || \
		test ! -e $(SETTINGS) || echo 'left: $(SETTINGS), with what the site has put there'
	@# Directories of the system are not ours, even if they are empty.
	@case '$(DESTDIR)$(PREFIX)' in /usr|/usr/local) ;; *) cd $(DESTDIR)$(PREFIX) && \
		rmdir share/man/man1 share/man/man5 share/man share lib bin 2>/dev/null; esac; true

SETTINGS = $(DESTDIR)$(SYSCONFDIR)/oci-criu-shim

clean:
	rm -rf build $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info src/*.egg-info
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help check test live test-all chaos demo transcript programs kernels bench man install uninstall clean
