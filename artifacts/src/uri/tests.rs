//! Which URIs are taken, how they print, and what is wrong with the others.

use super::*;

#[rstest::rstest]
#[case("s3://models/a/b", "s3://models/a/b", false)]
#[case("s3://models/a/b/", "s3://models/a/b/", true)]
#[case("s3://models", "s3://models/", true)]
#[case("s3://models/a%20b/ü c", "s3://models/a%20b/ü c", false)]
#[case("gs://my_models.example/a", "gs://my_models.example/a", false)]
#[case("az://models/a/", "az://models/a/", true)]
#[case("az://models", "az://models/", true)]
#[case("pvc://team.data/a/b.jsonl", "pvc://team.data/a/b.jsonl", false)]
#[case("pvc://data", "pvc://data/", true)]
#[case("file:///tmp/a", "file:///tmp/a", false)]
#[case("file:///tmp/a/", "file:///tmp/a/", true)]
#[case("file:///", "file:///", true)]
#[case("hf://owner/name", "hf://owner/name/", true)]
#[case("hf://owner/name@v1.0", "hf://owner/name@v1.0/", true)]
#[case(
    "hf://owner/na.me_x/sub/a.gguf",
    "hf://owner/na.me_x/sub/a.gguf",
    false
)]
#[case(
    "hf://datasets/owner/name@main/data/",
    "hf://datasets/owner/name@main/data/",
    true
)]
#[case("https://host:8443/a/b.gguf", "https://host:8443/a/b.gguf", false)]
#[case("https://host/a.jsonl?signature=hidden", "https://host/a.jsonl", false)]
fn a_uri_reads_and_prints_the_same(#[case] uri: &str, #[case] printed: &str, #[case] folder: bool) {
    let location = Location::parse(uri).unwrap();
    assert_eq!(location.to_string(), printed);
    assert_eq!(location.is_folder(), folder);
}

#[rstest::rstest]
#[case("models/a", "no scheme")]
#[case("gopher://models/a", "scheme `gopher`")]
#[case("hf://smol", "names no repository")]
#[case("hf://owner/..", "has `..`")]
#[case("hf://owner/name@/a", "has ``")]
#[case("hf://owner/name/a/../b", "segment `..`")]
#[case("https://me:secret@host/a.gguf", "user name or password")]
#[case("https://host/folder/", "names no file")]
#[case("https://host", "names no file")]
#[case("https://host/a#b", "holds a `#`")]
#[case("s3:///a", "bucket ``")]
#[case("s3://Models/a", "bucket `Models`")]
#[case("s3://models/a/../b", "segment `..`")]
#[case("gs://Models/a", "bucket `Models`")]
#[case("az://my_models/a", "container `my_models`")]
#[case("az://models/../other/a", "segment `..`")]
#[case("pvc:///a", "claim ``")]
#[case("pvc://../a", "claim `..`")]
#[case("pvc://a..b/a", "claim `a..b`")]
#[case("pvc://data/../../etc/passwd", "segment `..`")]
#[case("s3://models/a//b", "empty segment")]
#[case("file://tmp/a", "not absolute")]
#[case("file:///tmp/../etc", "segment `..`")]
#[case("s3://models/a\n", "control character")]
fn a_wrong_uri_is_refused_with_its_fault(#[case] uri: &str, #[case] fault: &str) {
    let error = Location::parse(uri).unwrap_err().to_string();
    assert!(error.contains(fault), "{error}");
}

#[test]
fn splitting_gives_the_folder_and_the_name() {
    let (parent, name) = Location::parse("s3://models/a/b.bin")
        .unwrap()
        .split()
        .unwrap();
    assert_eq!(
        (parent.to_string().as_str(), name.as_str()),
        ("s3://models/a/", "b.bin")
    );
    assert!(Location::parse("s3://models/").unwrap().split().is_none());
}
