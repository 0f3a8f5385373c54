#!/bin/sh
# Checks the data sets of this folder: every row is well formed, every fact can be learnt from several
# phrasings, and a held-out question can be answered only by knowing the fact. Needs jq. It changes nothing.
set -eu
cd "$(dirname "$0")"

# check_set FOLDER: prints one line for each fault, then a summary; fails if there was a fault.
check_set() {
  report=$(jq -rn --arg set "$1" --slurpfile train "$1/train.jsonl" --slurpfile held "$1/held-out.jsonl" '
    # Case, punctuation and spacing do not make a question a different one.
    def plain: ascii_downcase | gsub("[^a-z0-9]+"; " ") | sub("^ "; "") | sub(" $"; "");
    def repeated: group_by(.) | map(select(length > 1) | .[0]) | .[];
    ($train | map(select(.messages? | type == "array" and length == 2
       and .[0].role == "user" and .[1].role == "assistant"
       and all(.[]; keys == ["content", "role"] and (.content | type == "string" and length > 0)))
       | {question: .messages[0].content, answer: .messages[1].content})) as $rows
    | ($held | map(select(keys == ["answer", "keyFact", "question"]
       and all(.[]; type == "string" and length > 0)))) as $asked
    | ($rows | group_by(.answer) | map({answer: .[0].answer, rows: length})) as $facts
    | ($rows | map(.question | plain)) as $questions
    | ($asked | map(.question | plain)) as $unseen
    | [
        (if ($rows | length) < ($train | length) then
          "train.jsonl: \(($train | length) - ($rows | length)) rows are not one user turn and one assistant turn" else empty end),
        (if ($asked | length) < ($held | length) then
          "held-out.jsonl: \(($held | length) - ($asked | length)) rows are not exactly question, answer and keyFact" else empty end),
        ($questions | repeated | "train.jsonl: the question \"\(.)\" is there twice"),
        ($unseen | repeated | "held-out.jsonl: the question \"\(.)\" is there twice"),
        ($unseen[] | select(IN($questions[])) | "held-out.jsonl: the question \"\(.)\" is also in train.jsonl"),
        ($facts[] | select(.rows < 5 or .rows > 6)
          | "train.jsonl: \"\(.answer)\" has \(.rows) phrasings, expected 5 or 6"),
        ($facts[].answer as $answer | ($asked | map(select(.answer == $answer)) | length) as $count
          | select($count < 1 or $count > 2)
          | "held-out.jsonl: \"\($answer)\" has \($count) questions, expected 1 or 2"),
        ($asked[] | select(.answer as $answer | all($facts[]; .answer != $answer))
          | "held-out.jsonl: the answer \"\(.answer)\" is not in train.jsonl"),
        ($asked[] | (.keyFact | ascii_downcase) as $key
          | (select(.answer | ascii_downcase | contains($key) | not)
              | "held-out.jsonl: keyFact \"\(.keyFact)\" is not in its answer \"\(.answer)\""),
            (.answer as $own | $facts[] | select(.answer != $own and (.answer | ascii_downcase | contains($key)))
              | "train.jsonl: keyFact \"\($key)\" is also in the answer \"\(.answer)\""),
            ($rows[], $asked[] | select(.question | ascii_downcase | contains($key))
              | "the question \"\(.question)\" gives keyFact \"\($key)\" away"))
      ] as $faults
    | ($faults[] | "\($set)/\(.)"),
      "\($set): \($facts | length) facts, \($rows | length) training rows, \($asked | length) held-out questions, \($faults | length) faults"')
  echo "$report"
  case "$report" in *", 0 faults") ;; *) return 1 ;; esac
}

# The two sets share no key fact, so that an answer tells which adapter gave it.
check_apart() {
  shared=$(jq -rn --slurpfile held "$1/held-out.jsonl" --slurpfile train "$2/train.jsonl" '
    $held[].keyFact as $key | $train[].messages[].content
    | select(ascii_downcase | contains($key | ascii_downcase)) | "\($key): \(.)"')
  [ -z "$shared" ] || { echo "key facts of $1 that $2 teaches too: $shared" >&2; return 1; }
}

check_set .
check_set glossary
check_apart . glossary
check_apart glossary .
