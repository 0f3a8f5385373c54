//! What the chart's roles allow the operator, for tests: nothing may be asked of the API server without a right, and no right is
//! there without a module that says, in its head, what it needs it for.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;

use super::asked::Asked;

/// A verb and a resource.
type Right = (String, String);

const ROLES: &str = include_str!("../../../../charts/finetune-operator/templates/rbac.yaml");

static GRANTED: LazyLock<BTreeSet<Right>> = LazyLock::new(granted);

#[derive(Deserialize)]
struct Rule {
    resources: Vec<String>,
    verbs: Vec<String>,
}

/// The rights of the chart's roles. Their rules hold nothing that Helm fills in, so that they are YAML as they stand.
fn granted() -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for document in ROLES.split("\n---\n") {
        let Some((_, rules)) = document.split_once("\nrules:\n") else {
            continue;
        };
        let rules: Vec<Rule> = serde_saphyr::from_str(rules).expect("the rules are YAML");
        for rule in rules {
            for resource in &rule.resources {
                for verb in &rule.verbs {
                    rights.insert((verb.clone(), resource.clone()));
                }
            }
        }
    }
    rights
}

/// Panics where the chart's roles do not allow what was asked.
pub(crate) fn check(asked: &Asked) {
    let right = right(asked);
    assert!(
        GRANTED.contains(&right),
        "{} {} needs `{}` on {}, which charts/finetune-operator/templates/rbac.yaml does not allow",
        asked.method,
        asked.path,
        right.0,
        right.1
    );
}

fn right(asked: &Asked) -> Right {
    let parts: Vec<&str> = asked
        .path
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    let after_version = if parts[0] == "api" { 2 } else { 3 };
    let rest = match parts[after_version..] {
        ["namespaces", _, ref rest @ ..] if !rest.is_empty() => rest.to_vec(),
        ref rest => rest.to_vec(),
    };
    let resource = match rest[..] {
        [resource, _, subresource] => format!("{resource}/{subresource}"),
        _ => rest[0].to_owned(),
    };
    let verb = match asked.method.as_str() {
        "GET" if asked.query.contains("watch=true") => "watch",
        "GET" if rest.len() == 1 => "list",
        "GET" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        other => panic!("{other} is no method of the API server's"),
    };
    (verb.to_owned(), resource)
}

/// The rights that the heads of modules name, in the form ``RBAC: `get` and `list` pods, jobs; `patch` pods.``
fn named(folder: &Path, rights: &mut BTreeSet<Right>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            named(&path, rights);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let head: Vec<&str> = text
            .lines()
            .map_while(|line| line.strip_prefix("//!"))
            .collect();
        let head = head.join("");
        let Some((_, said)) = head.split_once(" RBAC: ") else {
            continue;
        };
        for clause in said.trim_end_matches('.').split(';') {
            let (verbs, resources) = clause.rsplit_once('`').unwrap();
            let verbs = verbs.split('`').skip(1).step_by(2);
            for verb in verbs {
                for resource in resources
                    .split([',', ' '])
                    .filter(|word| !word.is_empty() && *word != "and")
                {
                    rights.insert((verb.to_owned(), resource.to_owned()));
                }
            }
        }
    }
}

#[test]
fn every_right_of_the_operator_is_named_by_a_module_that_uses_it_and_no_module_lacks_one() {
    let mut rights = BTreeSet::new();
    named(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
        &mut rights,
    );
    let without_use: Vec<_> = GRANTED.difference(&rights).collect();
    assert!(without_use.is_empty(), "nothing uses {without_use:?}");
    let without_right: Vec<_> = rights.difference(&GRANTED).collect();
    assert!(without_right.is_empty(), "no role allows {without_right:?}");
}
