#!/usr/bin/env bash
# Holds the documentation to the code: every series is described, every family of models has a row, every described series exists, every link to a file of
# the project leads somewhere, every path that ARCHITECTURE.md names is there, and so is every test that the page of the fixtures names.
# The alerts name series that exist, and chart and example name the images that `make images` makes.
set -euo pipefail
cd "$(dirname "$0")/.."
fault=0
complain() { echo "$*" >&2; fault=1; }

series='(finetune|controller_runtime|workqueue|rest_client|leader_election)_[a-z_]+'
in_code=$(grep -rhoE "\"$series\"" --include='metrics.rs' operator/src trainer/src | tr -d '"' | sort -u)
in_docs=$(grep -hoE "^\| \`$series\`" docs/monitor.md | tr -d '|` ' | sort -u)
while read -r name; do complain "docs/monitor.md does not describe the series $name: add a row"; done \
    < <(comm -23 <(echo "$in_code") <(echo "$in_docs") | sed '/^$/d')
while read -r name; do complain "docs/monitor.md describes the series $name, which no metrics.rs registers: remove it"; done \
    < <(comm -13 <(echo "$in_code") <(echo "$in_docs") | sed '/^$/d')

while read -r name; do
    # A histogram has three series.
    grep -qxE "${name%_sum}|${name%_count}|${name%_bucket}" <<<"$in_code" ||
        complain "examples/monitoring/alerts.yaml names the series $name, which no metrics.rs registers: correct it"
done < <(grep -v '^ *#' examples/monitoring/alerts.yaml | grep -oE "\b$series\b" | sort -u)

classes=$(grep -hoE 'class: "[^"]+"' trainer/src/base/hugging_face_config/family.rs | cut -d '"' -f 2) || true
[ -n "$classes" ] || complain "trainer/src/base/hugging_face_config/family.rs names no class, expected the table of the families"
while read -r class; do
    grep -q "^| \`$class\` |" docs/base-models.md || complain "docs/base-models.md does not describe $class, which trainer/src/base/hugging_face_config/family.rs lists: add a row"
done <<<"$classes"

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
grep -qx "appVersion: $version" charts/finetune-operator/Chart.yaml ||
    complain "charts/finetune-operator/Chart.yaml has $(grep ^appVersion charts/finetune-operator/Chart.yaml), expected the workspace's version $version"
grep -q "image: localhost/finetune-trainer:$version\$" examples/support/inference.yaml ||
    complain "examples/support/inference.yaml does not name localhost/finetune-trainer:$version, the image that \`make images\` makes"

while read -r page link; do
    target="$(dirname "$page")/${link%%#*}"
    [ -e "$target" ] || complain "$page links to $link, which does not exist"
done < <(grep -oHE '\]\([^)#:]+[^):]*\)' README.md ARCHITECTURE.md CONTRIBUTING.md docs/*.md examples/*/*.md 2>/dev/null |
    sed -E 's/:\]\(/ /; s/\)$//')

while read -r path; do
    [ -e "$path" ] || complain "ARCHITECTURE.md names $path, which does not exist"
done < <(grep -oE '`(crds|artifacts|dataset|numerics|operator|trainer|charts|images|tests|examples|docs)/[A-Za-z0-9_./-]*`' ARCHITECTURE.md | tr -d '`')

tests_of_fixtures=$(sed -n '/^## What is shown/,/^## Models/p' trainer/tests/fixtures/README.md | grep -oE '`[a-z0-9]+(_[a-z0-9]+){3,}`' | tr -d '`' | sort -u)
[ -n "$tests_of_fixtures" ] || complain "trainer/tests/fixtures/README.md names no test, expected the table \"What is shown\""
while read -r name; do
    grep -rqE "fn $name\(" --include='*.rs' trainer numerics dataset artifacts || complain "trainer/tests/fixtures/README.md names the test $name, which does not exist"
done <<<"$tests_of_fixtures"

exit "$fault"
