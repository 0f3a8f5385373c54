//! What kubectl and the API server take is taken, what they refuse is refused, in words for whoever wrote the file.

use rstest::rstest;

use super::*;

mod refusals;

const GOOD: &str = "apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata:
  name: support
spec:
  baseModel:
    uri: file:///base/
  dataset:
    train:
      - uri: file:///train.jsonl
  method:
    lora:
      rank: 4
";

fn refusal(text: &str) -> String {
    parse(text, Path::new("job.yaml")).unwrap_err().to_string()
}

#[test]
fn a_manifest_by_hand_gets_a_namespace_and_an_id_that_stays() {
    let job = parse(GOOD, Path::new("job.yaml")).unwrap();
    assert_eq!(job.namespace, "default");
    assert_eq!(job.uid.len(), 36);
    assert_eq!(job.uid, parse(GOOD, Path::new("other.yaml")).unwrap().uid);
    assert_ne!(
        job.uid,
        parse(&GOOD.replace("rank: 4", "rank: 8"), Path::new("job.yaml"))
            .unwrap()
            .uid
    );
}

#[test]
fn a_uid_of_the_cluster_is_kept() {
    let text = GOOD.replace(
        "  name: support",
        "  name: support\n  uid: abc\n  namespace: team-a",
    );
    let job = parse(&text, Path::new("job.yaml")).unwrap();
    assert_eq!(
        (job.uid.as_str(), job.namespace.as_str()),
        ("abc", "team-a")
    );
}

#[rstest]
#[case(
    "namespace: ../../../../esc",
    "metadata.namespace is `../../../../esc`"
)]
#[case("namespace: a/b", "metadata.namespace is `a/b`")]
#[case("namespace: \"\"", "metadata.namespace is ``")]
#[case("namespace: Team", "metadata.namespace is `Team`")]
#[case("namespace: team-", "metadata.namespace is `team-`")]
#[case(&format!("namespace: {}", "a".repeat(64)), "expected 1 to 63 of a-z, 0-9 and -")]
#[case("uid: ../../x", "metadata.uid is `../../x`")]
#[case("uid: a_b", "metadata.uid is `a_b`")]
#[case("uid: \"\"", "metadata.uid is ``")]
fn a_namespace_or_uid_that_no_cluster_gives_is_refused_with_its_line(
    #[case] line: &str,
    #[case] expected: &str,
) {
    let message = refusal(&GOOD.replace("  name: support", &format!("  name: support\n  {line}")));
    assert!(
        message.contains("line 5: metadata.") && message.contains(expected),
        "{message}"
    );
}

#[test]
fn a_namespace_may_be_as_long_as_a_dns_label_and_begin_with_a_digit() {
    let namespace = format!("0{}", "a".repeat(62));
    let line = format!("  name: support\n  namespace: {namespace}");
    let job = parse(
        &GOOD.replace("  name: support", &line),
        Path::new("job.yaml"),
    )
    .unwrap();
    assert_eq!(job.namespace, namespace);
}

#[test]
fn an_unknown_field_is_named_with_its_line() {
    let message = refusal(&GOOD.replace("rank: 4", "rnak: 4"));
    assert!(
        message.contains("line 13: spec.method.lora.rnak"),
        "{message}"
    );
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_its_line() {
    let message = refusal(&GOOD.replace("rank: 4", "rank: four"));
    assert!(
        message.contains("line 13: spec.method.lora.rank is the text `four`")
            && message.contains("expected a whole number"),
        "{message}"
    );
}

#[test]
fn two_methods_are_refused() {
    let message = refusal(&format!("{GOOD}    full: {{}}\n"));
    assert!(message.contains("line 11: spec.method"), "{message}");
}

#[test]
fn another_kind_is_refused() {
    let message = refusal(&GOOD.replace("kind: FineTuneJob", "kind: Adapter"));
    assert!(
        message.contains("line 2: kind is `Adapter`, expected `FineTuneJob`"),
        "{message}"
    );
}

const SECRET: &str = "apiVersion: v1
kind: Secret
metadata: { name: store }
stringData: { AWS_REGION: us-east-1 }
";

fn name(text: &str) -> String {
    parse(text, Path::new("job.yaml")).unwrap().name
}

#[rstest]
#[case::at_the_end(format!("{GOOD}---\n"))]
#[case::at_both_ends(format!("---\n# a job\n{GOOD}---\n# nothing\n---\n"))]
#[case::with_another_system(format!("\u{feff}{GOOD}---\n").replace('\n', "\r\n"))]
#[case::secret_first(format!("{SECRET}---\n{GOOD}"))]
#[case::secret_last(format!("{GOOD}---\n{SECRET}"))]
#[case::list(format!("apiVersion: v1\nkind: List\nitems:\n- {}\n- {}", SECRET.trim().replace('\n', "\n  "), GOOD.trim().replace('\n', "\n  ")))]
#[case::with_what_the_cluster_adds(format!("{}status: {{ phase: Running }}\n", GOOD.replace("metadata:\n", "metadata:\n  creationTimestamp: null\n  generation: 1\n  managedFields: []\n")))]
fn the_job_is_found_among_the_documents_that_kubectl_takes(#[case] text: String) {
    assert_eq!(name(&text), "support");
}

#[rstest]
#[case("", "job.yaml: holds no document, expected a FineTuneJob")]
#[case(
    "# nothing\n---\n",
    "job.yaml: holds no document, expected a FineTuneJob"
)]
#[case("- a\n", "kind is ``, expected `FineTuneJob`")]
#[case(&format!("{SECRET}---\n{SECRET}"), "holds 2 documents and no FineTuneJob (Secret `store`, Secret `store`)")]
#[case(&format!("{GOOD}---\n{GOOD}"), "holds 2 FineTuneJobs (FineTuneJob `support`, FineTuneJob `support`), expected one")]
fn a_file_without_the_one_job_is_refused_with_what_it_holds(
    #[case] text: &str,
    #[case] expected: &str,
) {
    let message = refusal(text);
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_fault_behind_another_document_is_named_with_its_own_line() {
    let text = format!("{SECRET}---\n{}", GOOD.replace("rank: 4", "rnak: 4"));
    let message = refusal(&text);
    assert!(
        message.contains("line 18: spec.method.lora.rnak"),
        "{message}"
    );
}

#[rstest]
#[case(
    "rank: 4",
    "rank: \"4\"",
    "spec.method.lora.rank is the text `4`, expected a whole number: remove the quotes"
)]
#[case(
    "rank: 4",
    "rank: 4.5",
    "spec.method.lora.rank is 4.5, expected a whole number"
)]
#[case(
    "rank: 4",
    "rank: 4000000000000000000000",
    "spec.method.lora.rank is 4e"
)]
#[case(
    "rank: 4",
    "rank: [4]",
    "spec.method.lora.rank is a list, expected a whole number"
)]
#[case(
    "rank: 4",
    "rank: 4\n      useRslora: \"true\"",
    "spec.method.lora.useRslora is the text `true`, expected true or false: remove the quotes"
)]
#[case(
    "rank: 4",
    "rank: 4\n      dropout: \"0.1\"",
    "spec.method.lora.dropout is the text `0.1`, expected a number: remove the quotes"
)]
#[case(
    "rank: 4",
    "rank: 4\n      rank: 8",
    "`rank` stands there a second time: remove one of the two"
)]
#[case("rank: 4", "rank: .nan", "`.nan` is not finite, expected a number")]
#[case(
    "spec:",
    "spec:\n  training: { learningRate: .NaN }",
    "`.NaN` is not finite, expected a number"
)]
#[case(
    "    train:",
    "    format: messages\n    train:",
    "spec.dataset.format is `messages`, expected one of Auto, Messages,"
)]
#[case(
    "- uri: file:///train.jsonl",
    "- file:///train.jsonl",
    "spec.dataset.train[0] is the text `file:///train.jsonl`, expected fields below it"
)]
#[case(
    "- uri: file:///train.jsonl",
    "- url: file:///train.jsonl",
    "spec.dataset.train[0].uri is absent, expected text"
)]
#[case(
    "uri: file:///base/",
    "uri: 7",
    "spec.baseModel.uri is 7, expected text: put it into quotes"
)]
#[case(
    "name: support",
    "name: 7",
    "metadata.name is 7, expected text: put it into quotes"
)]
#[case(
    "name: support",
    "name: support\n  labels: { team: 1 }",
    "metadata.labels.team is 1, expected text"
)]
#[case("spec:", "sepc: {}\nspec:", "sepc is not a field of this version")]
#[case("uri: file:///base/", "uri: *base", "anchor")]
#[case("      rank: 4", "\trank: 4", "job.yaml: line 1")]
fn what_the_clusters_schema_refuses_is_refused_by_hand_in_plain_words(
    #[case] from: &str,
    #[case] to: &str,
    #[case] expected: &str,
) {
    let message = refusal(&GOOD.replacen(from, to, 1));
    assert!(message.contains(expected), "{message}");
    for word in [
        "Option",
        "Policy",
        "from_str",
        "u32",
        "i64",
        "f64",
        "invalid type",
        "serde",
    ] {
        assert!(!message.contains(word), "{word} in: {message}");
    }
}

#[test]
fn what_is_out_of_bounds_and_what_breaks_a_rule_is_told_at_once() {
    let text = GOOD.replace("rank: 4", "rank: 0");
    let message = refusal(&format!("{text}    full: {{}}\n"));
    for expected in [
        "line 13: spec.method.lora.rank is 0, expected 1 to 1024",
        "line 11: spec.method has full and lora",
    ] {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_number_that_its_type_does_not_hold_is_out_of_bounds() {
    let text = format!("{GOOD}  training: {{ seed: 18446744073709551615 }}\n");
    let message = refusal(&text);
    let expected = "spec.training.seed is 18446744073709551615, expected 0 to 4294967295";
    assert!(message.ends_with(expected), "{message}");
}

#[test]
fn anchors_that_unfold_without_end_are_refused_in_plain_words() {
    use std::fmt::Write;

    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for number in 1..12 {
        let nine = vec![format!("*a{}", number - 1); 9].join(", ");
        writeln!(text, "a{number}: &a{number} [{nine}]").unwrap();
    }
    let message = refusal(&text);
    assert!(
        message.contains("it unfolds to more than a manifest may hold"),
        "{message}"
    );
}

#[test]
fn deep_nesting_is_told_from_size() {
    use std::fmt::Write;

    let mut blocks = String::new();
    for depth in 0..200 {
        writeln!(blocks, "{}a:", " ".repeat(depth)).unwrap();
    }
    for text in [blocks, format!("a: {}", "[".repeat(200_000))] {
        let message = refusal(&text);
        assert!(
            message.contains("nested deeper than a manifest may be")
                && !message.contains("anchors"),
            "{}",
            cut(&message)
        );
    }
}

#[rstest]
#[case::a_line(format!("a: {}", "[".repeat(200_000)))]
#[case::a_value(GOOD.replace("rank: 4", &format!("rank: {}", "x".repeat(200_000))))]
#[case::a_name(GOOD.replace("support", &"x".repeat(200_000)))]
#[case::a_namespace(GOOD.replace("name: support", &format!("name: support\n  namespace: {}", "x".repeat(200_000))))]
#[case::a_uri(GOOD.replace("file:///base/", &format!("nowhere://{}/", "x".repeat(200_000))))]
#[case::a_bucket(GOOD.replace("file:///base/", &format!("s3://{}/", "x".repeat(200_000))))]
#[case::a_kind(GOOD.replace("FineTuneJob", &"x".repeat(200_000)))]
#[case::a_tag(GOOD.replace("rank: 4", &format!("rank: !{} 4", "x".repeat(200_000))))]
#[case::an_item_for_each_fault(GOOD.replace("- uri: file:///train.jsonl", &"- 1\n      ".repeat(2_000)))]
#[case::many_documents(format!("{SECRET}---\n").repeat(500))]
fn a_refusal_quotes_little_of_a_long_file(#[case] text: String) {
    let message = refusal(&text);
    assert!(
        message.starts_with("job.yaml: ") && message.len() < 4_000,
        "{} bytes: {}",
        message.len(),
        cut(&message)
    );
}

fn refusal_of_bytes(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.yaml");
    std::fs::write(&path, bytes).unwrap();
    read(&path, &Meant::default()).unwrap_err().to_string()
}

#[rstest]
#[case::with_a_mark("\u{feff}")]
#[case::without_a_mark("")]
fn a_manifest_in_utf_16_is_named_as_such(#[case] mark: &str) {
    let units: Vec<u16> = format!("{mark}{GOOD}").encode_utf16().collect();
    let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
    for bytes in [little, big] {
        let message = refusal_of_bytes(&bytes);
        assert!(
            message.ends_with("job.yaml: is UTF-16, expected UTF-8: save it as UTF-8"),
            "{message}"
        );
    }
}

#[test]
fn a_manifest_in_another_encoding_is_refused_with_the_line_of_the_first_such_byte() {
    let mut bytes = GOOD.as_bytes().to_vec();
    let place = GOOD.find("support").unwrap();
    bytes[place] = 0xe4;
    let message = refusal_of_bytes(&bytes);
    let expected = format!("line 4: byte {place} of the file is not UTF-8: save it as UTF-8");
    assert!(message.ends_with(&expected), "{message}");
}

#[rstest]
#[case(
    "rank: 4",
    "rank: !!python/object:os.system 4",
    "line 13: the tag `!!python/object:os.system`"
)]
#[case("rank: 4", "rank: !mine 4", "line 13: the tag `!mine`")]
#[case(
    "rank: 4",
    "rank: !!timestamp 2001-01-01",
    "line 13: the tag `!!timestamp`"
)]
#[case(
    "name: support",
    "name: !!binary c3VwcG9ydA==",
    "line 4: the tag `!!binary`"
)]
#[case("train:", "train: !!omap", "the tag `!!omap`")]
fn a_tag_that_is_not_of_yamls_core_schema_is_refused_by_name(
    #[case] from: &str,
    #[case] to: &str,
    #[case] expected: &str,
) {
    let message = refusal(&GOOD.replacen(from, to, 1));
    assert!(
        message.contains(expected) && message.contains("core schema"),
        "{message}"
    );
}

#[rstest]
#[case("rank: 4", "rank: !!int 4")]
#[case("name: support", "name: !!str support")]
#[case("name: support", "name: ! support")]
#[case("metadata:", "metadata: !!map")]
fn a_tag_of_yamls_core_schema_is_taken(#[case] from: &str, #[case] to: &str) {
    let text = GOOD.replacen(from, to, 1);
    let job = parse(&text, Path::new("job.yaml")).unwrap();
    assert_eq!(
        (job.name.as_str(), job.method.adapter().unwrap().lora.rank),
        ("support", 4)
    );
}

#[rstest]
#[case("yes", true)]
#[case("no", false)]
#[case("on", true)]
#[case("Off", false)]
#[case("True", true)]
#[case("false", false)]
fn booleans_are_those_of_yaml_1_1_as_in_kubectl(#[case] text: &str, #[case] expected: bool) {
    let manifest = GOOD.replace("rank: 4", &format!("rank: 4\n      useRslora: {text}"));
    let job = parse(&manifest, Path::new("job.yaml")).unwrap();
    assert_eq!(job.method.adapter().unwrap().lora.use_rslora, expected);
}

#[rstest]
#[case("4", 4)]
#[case("4.0", 4)]
#[case("0x10", 16)]
#[case("010", 8)]
fn whole_numbers_are_read_as_kubectl_reads_them(#[case] text: &str, #[case] expected: i64) {
    let job = parse(
        &GOOD.replace("rank: 4", &format!("rank: {text}")),
        Path::new("job.yaml"),
    )
    .unwrap();
    assert_eq!(job.method.adapter().unwrap().lora.rank, expected);
}

#[test]
fn a_field_that_is_null_is_absent() {
    let text = GOOD.replace("rank: 4", "rank: 4\n      alpha: null");
    let job = parse(&text, Path::new("job.yaml")).unwrap();
    assert_eq!(job.spec, parse(GOOD, Path::new("job.yaml")).unwrap().spec);
}

fn of_digest(digest: &str) -> Meant<'_> {
    Meant {
        spec_digest: Some(digest),
        ..Meant::default()
    }
}

#[test]
fn an_unknown_field_of_a_clusters_manifest_is_passed_over_and_by_hand_refused() {
    let path = Path::new("job.yaml");
    let digest = parse(GOOD, path).unwrap().spec_digest;
    let newer = format!("{GOOD}  suspend: false\n");
    let job = parse_as(&newer, path, &of_digest(&digest)).unwrap();
    assert_eq!(job.spec_digest, digest);
    assert!(refusal(&newer).contains("spec.suspend"));
}

#[test]
fn a_manifest_of_another_digest_is_refused_with_both() {
    let path = Path::new("job.yaml");
    let meant = format!("sha256:{}", "0".repeat(64));
    let found = parse(GOOD, path).unwrap().spec_digest;
    let message = parse_as(GOOD, path, &of_digest(&meant))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains(&meant) && message.contains(&found),
        "{message}"
    );
    let newer = format!("{GOOD}  novelty: 3\n");
    let message = parse_as(&newer, path, &of_digest(&meant))
        .unwrap_err()
        .to_string();
    assert!(message.contains("does not know spec.novelty"), "{message}");
}

#[test]
fn what_is_wrong_with_a_clusters_manifest_is_refused_too() {
    let path = Path::new("job.yaml");
    let text = GOOD.replace("rank: 4", "rank: 0");
    let mut spec = parse(GOOD, path).unwrap().spec;
    spec.method.lora.as_mut().unwrap().rank = 0;
    let error = parse_as(&text, path, &of_digest(&spec.digest())).unwrap_err();
    assert!(
        error.to_string().contains("spec.method.lora.rank"),
        "{error}"
    );
}

#[test]
fn a_stored_uri_that_is_longer_than_new_ones_may_be_is_taken_from_a_cluster_alone() {
    let path = Path::new("job.yaml");
    let uri = format!("s3://adapters/{}", "a".repeat(900));
    let text = format!("{GOOD}  output: {{ uri: {uri} }}\n");
    let mut spec = parse(GOOD, path).unwrap().spec;
    spec.output.get_or_insert_default().uri = Some(uri);
    assert!(parse_as(&text, path, &of_digest(&spec.digest())).is_ok());
    let message = refusal(&text);
    let expected = "spec.output.uri has 914 characters, expected 1 to 256";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_wrong_type_in_a_clusters_manifest_is_refused_too() {
    let path = Path::new("job.yaml");
    let digest = parse(GOOD, path).unwrap().spec_digest;
    let text = format!("{}  novelty: 3\n", GOOD.replace("rank: 4", "rank: \"4\""));
    let error = parse_as(&text, path, &of_digest(&digest)).unwrap_err();
    assert!(
        error.to_string().contains("spec.method.lora.rank"),
        "{error}"
    );
}

const IN_A_CLUSTER: &str = "  name: support\n  namespace: team-a\n  uid: uid-1";

#[rstest]
#[case::the_one_that_is_meant(IN_A_CLUSTER, &[])]
#[case::another_namespace(
    "  name: support\n  namespace: team-b\n  uid: uid-1",
    &["metadata.namespace is `team-b`, but --job-namespace is `team-a`"]
)]
#[case::no_namespace(
    "  name: support\n  uid: uid-1",
    &["metadata.namespace is `default`, but --job-namespace is `team-a`"]
)]
#[case::another_name_and_uid(
    "  name: sales\n  namespace: team-a\n  uid: uid-2",
    &["metadata.name is `sales`, but --job-name is `support`", "metadata.uid is `uid-2`, but --job-uid is `uid-1`"]
)]
#[case::no_uid("  name: support\n  namespace: team-a", &["but --job-uid is `uid-1`", "the operator writes it again"])]
fn a_manifest_of_another_job_is_refused_although_it_has_the_digest_that_is_meant(
    #[case] metadata: &str,
    #[case] words: &[&str],
) {
    let path = Path::new("job.yaml");
    let text = GOOD.replace("  name: support", metadata);
    let digest = parse(GOOD, path).unwrap().spec_digest;
    let meant = Meant {
        namespace: Some("team-a"),
        name: Some("support"),
        uid: Some("uid-1"),
        ..of_digest(&digest)
    };
    let message = match parse_as(&text, path, &meant) {
        Ok(job) => {
            assert_eq!(job.namespace, "team-a");
            String::new()
        }
        Err(error) => error.to_string(),
    };
    assert_eq!(message.is_empty(), words.is_empty(), "{message}");
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}
