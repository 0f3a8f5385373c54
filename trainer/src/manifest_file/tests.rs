//! What kubectl and the API server take is taken, what they refuse is refused, in words for whoever wrote the file.

use rstest::rstest;

use super::*;

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
    Job::parse(text, Path::new("job.yaml"))
        .unwrap_err()
        .to_string()
}

#[test]
fn a_manifest_by_hand_gets_a_namespace_and_an_id_that_stays() {
    let job = Job::parse(GOOD, Path::new("job.yaml")).unwrap();
    assert_eq!(job.namespace, "default");
    assert_eq!(job.uid.len(), 36);
    assert_eq!(
        job.uid,
        Job::parse(GOOD, Path::new("other.yaml")).unwrap().uid
    );
    assert_ne!(
        job.uid,
        Job::parse(&GOOD.replace("rank: 4", "rank: 8"), Path::new("job.yaml"))
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
    let job = Job::parse(&text, Path::new("job.yaml")).unwrap();
    assert_eq!(
        (job.uid.as_str(), job.namespace.as_str()),
        ("abc", "team-a")
    );
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
    Job::parse(text, Path::new("job.yaml")).unwrap().name
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

#[rstest]
#[case("yes", true)]
#[case("no", false)]
#[case("on", true)]
#[case("Off", false)]
#[case("True", true)]
#[case("false", false)]
fn booleans_are_those_of_yaml_1_1_as_in_kubectl(#[case] text: &str, #[case] expected: bool) {
    let manifest = GOOD.replace("rank: 4", &format!("rank: 4\n      useRslora: {text}"));
    let job = Job::parse(&manifest, Path::new("job.yaml")).unwrap();
    assert_eq!(job.lora().unwrap().use_rslora, expected);
}

#[rstest]
#[case("4", 4)]
#[case("4.0", 4)]
#[case("0x10", 16)]
#[case("010", 8)]
fn whole_numbers_are_read_as_kubectl_reads_them(#[case] text: &str, #[case] expected: i64) {
    let job = Job::parse(
        &GOOD.replace("rank: 4", &format!("rank: {text}")),
        Path::new("job.yaml"),
    )
    .unwrap();
    assert_eq!(job.lora().unwrap().rank, expected);
}

#[test]
fn a_field_that_is_null_is_absent() {
    let text = GOOD.replace("rank: 4", "rank: 4\n      alpha: null");
    let job = Job::parse(&text, Path::new("job.yaml")).unwrap();
    assert_eq!(
        job.spec,
        Job::parse(GOOD, Path::new("job.yaml")).unwrap().spec
    );
}

#[test]
fn an_unknown_field_of_a_clusters_manifest_is_passed_over_and_by_hand_refused() {
    let path = Path::new("job.yaml");
    let digest = Job::parse(GOOD, path).unwrap().spec_digest;
    let newer = format!("{GOOD}  suspend: false\n");
    let job = Job::parse_as(&newer, path, Some(&digest)).unwrap();
    assert_eq!(job.spec_digest, digest);
    assert!(refusal(&newer).contains("spec.suspend"));
}

#[test]
fn a_manifest_of_another_digest_is_refused_with_both() {
    let path = Path::new("job.yaml");
    let meant = format!("sha256:{}", "0".repeat(64));
    let found = Job::parse(GOOD, path).unwrap().spec_digest;
    let message = Job::parse_as(GOOD, path, Some(&meant))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains(&meant) && message.contains(&found),
        "{message}"
    );
    let newer = format!("{GOOD}  novelty: 3\n");
    let message = Job::parse_as(&newer, path, Some(&meant))
        .unwrap_err()
        .to_string();
    assert!(message.contains("does not know spec.novelty"), "{message}");
}

#[test]
fn what_is_wrong_with_a_clusters_manifest_is_refused_too() {
    let path = Path::new("job.yaml");
    let text = GOOD.replace("rank: 4", "rank: 0");
    let mut spec = Job::parse(GOOD, path).unwrap().spec;
    spec.method.lora.as_mut().unwrap().rank = 0;
    let error = Job::parse_as(&text, path, Some(&spec.digest())).unwrap_err();
    assert!(
        error.to_string().contains("spec.method.lora.rank"),
        "{error}"
    );
}

#[test]
fn a_wrong_type_in_a_clusters_manifest_is_refused_too() {
    let path = Path::new("job.yaml");
    let digest = Job::parse(GOOD, path).unwrap().spec_digest;
    let text = format!("{}  novelty: 3\n", GOOD.replace("rank: 4", "rank: \"4\""));
    let error = Job::parse_as(&text, path, Some(&digest)).unwrap_err();
    assert!(
        error.to_string().contains("spec.method.lora.rank"),
        "{error}"
    );
}
