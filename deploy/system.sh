#!/usr/bin/env bash
# Installs the Debian packages that the tests need; quick when all are there. None of them is needed for serving.
# Where they cannot be installed, the tests that need them are skipped by name; with CI=true that is an error.
set -euo pipefail

# command:package
WANTED="promtool:prometheus prometheus:prometheus nginx:nginx-light docker-compose:docker-compose
        chromium:chromium chromedriver:chromium-driver"
# Services that the packages bring: ours are started by the tests, on ports of their own.
UNITS="prometheus nginx"
PATH="$PATH:/usr/sbin:/sbin"
POLICY=/usr/sbin/policy-rc.d

say() { printf 'zephyra: %s\n' "$*"; }

give_up() {
    say "$*; the tests that need them are skipped: $missing" >&2
    [ "${CI:-}" = true ] && exit 1
    exit 0
}

find_missing() {
    for pair in $WANTED; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
    done | sort -u | tr '\n' ' '
}

# Debian starts a service when its package is installed: it would take the port, and outlive the tests.
refuse_services() {
    if ! $root test -e "$POLICY"; then
        printf '#!/bin/sh\nexit 101\n' | $root tee "$POLICY" >/dev/null
        $root chmod 755 "$POLICY"
        trap '$root rm -f "$POLICY"' EXIT
    fi
}

install() {
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$@" \
        >/dev/null 2>"$errors"
}

missing=$(find_missing)
[ -z "$missing" ] && exit 0
command -v apt-get >/dev/null || give_up "there is no apt-get here"
root=""
if [ "$(id -u)" != 0 ]; then
    root="sudo -n"
    $root true 2>/dev/null || give_up "installing system packages needs root (once: sudo bash deploy/system.sh)"
fi

errors=$(mktemp)
say "installing system packages for the tests: $missing(about 900 MB on disk, a minute)"
refuse_services
$root apt-get update -qq 2>"$errors" || say "apt-get update failed; going on with the lists that are here" >&2
# shellcheck disable=SC2086
if ! install $missing; then
    # One that a distribution lacks must not keep the others out.
    for package in $missing; do
        install "$package" || { say "$package could not be installed:" >&2; tail -2 "$errors" >&2; }
    done
fi
rm -f "$errors"
if [ -d /run/systemd/system ]; then
    for unit in $UNITS; do
        case " $missing " in *" $unit"*) $root systemctl -q disable --now "$unit" 2>/dev/null || true ;; esac
    done
fi
missing=$(find_missing)
[ -z "$missing" ] || give_up "not all system packages could be installed"
say "system packages are there"
