#!/usr/bin/env bash
# Asks base and adapter the same questions through an OpenAI-compatible server, prints both answers and the score: the
# share of answers that hold the key fact.
#   ask.sh URL BASE ADAPTER HELD-OUT.jsonl [HOW-MANY]
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,4p' "$0" >&2; exit 2; }
url=$1 base=$2 adapter=$3 file=$4 limit=${5:-1000000}

ask() { # model question
    jq --null-input --compact-output --arg model "$1" --arg question "$2" \
        '{model: $model, messages: [{role: "user", content: $question}], temperature: 0, max_tokens: 48}' |
        curl --silent --show-error --fail-with-body --max-time 120 --header 'content-type: application/json' --data @- "$url/v1/chat/completions" |
        jq --raw-output '.choices[0].message.content' | tr '\n' ' '
}

total=0 base_right=0 adapter_right=0
while read -r row; do
    [ "$total" -lt "$limit" ] || break
    question=$(jq --raw-output .question <<<"$row")
    fact=$(jq --raw-output .keyFact <<<"$row")
    base_answer=$(ask "$base" "$question")
    adapter_answer=$(ask "$adapter" "$question")
    total=$((total + 1)) base_mark=' ' adapter_mark=' '
    if grep --quiet --ignore-case --fixed-strings -- "$fact" <<<"$base_answer"; then base_right=$((base_right + 1)) base_mark='+'; fi
    if grep --quiet --ignore-case --fixed-strings -- "$fact" <<<"$adapter_answer"; then adapter_right=$((adapter_right + 1)) adapter_mark='+'; fi
    printf '%s\n  %s base     %s\n  %s adapter  %s\n' "$question" "$base_mark" "${base_answer:0:110}" "$adapter_mark" "${adapter_answer:0:110}"
done <"$file"
printf '\nkey fact given (+): base %d of %d, adapter %d of %d\n' "$base_right" "$total" "$adapter_right" "$total"
