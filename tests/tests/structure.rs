//! The arrows between the files of a crate run in one direction: no circle, neither of files nor of the folders they lie in.
//!
//! Read off the `use` lines. What a module passes on counts as a name of the file that has it. A folder and what lies in it may
//! know each other: `mod.rs` is its face.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The text of each module of a crate, by its path as `rows/files`.
type Modules = BTreeMap<String, String>;

#[test]
fn no_files_of_a_crate_know_each_other_in_a_circle() {
    for name in "artifacts crds dataset numerics operator trainer".split(' ') {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut modules = Modules::new();
        read(&root.join(name).join("src"), "", &mut modules);
        assert!(modules.len() > 1, "{name}/src has no modules");
        let found = circles(&modules).join("\n");
        assert_eq!(found, "", "{name}/src has a circle: move what ties it");
    }
}

fn read(folder: &Path, module: &str, modules: &mut Modules) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let within = match stem.as_str() {
            "lib" | "mod" => module.to_owned(),
            "bin" | "main" => continue,
            name if name.ends_with("tests") => continue,
            name => below(module, name),
        };
        if path.is_dir() {
            read(&path, &within, modules);
        } else if path.extension().is_some_and(|end| end == "rs") {
            modules.insert(within, std::fs::read_to_string(&path).unwrap());
        }
    }
}

fn below(module: &str, name: &str) -> String {
    let path = format!("{module}/{name}");
    path.trim_start_matches('/').to_owned()
}

/// What ties the circles, in words.
fn circles(modules: &Modules) -> Vec<String> {
    // Of neighbours in a folder, since the files of a circle lie in some of one folder's neighbours.
    let mut arrows = BTreeMap::<(String, String), BTreeSet<String>>::new();
    let parts = |module: &str| -> Vec<String> {
        let parts = module.split_terminator('/');
        parts.map(str::to_owned).collect()
    };
    for (from, text) in modules {
        for path in paths(text) {
            let (to, name) = resolve(modules, from, &path);
            let (one, other) = (parts(from), parts(&to));
            let both = one.iter().zip(&other);
            let end = 1 + both.take_while(|(one, other)| one == other).count();
            if end <= one.len().min(other.len()) {
                let neighbours = (one[..end].join("/"), other[..end].join("/"));
                let names = arrows.entry(neighbours).or_default();
                names.insert(format!("{from} takes {name} of {to}"));
            }
        }
    }
    let leads_back = |from: &String, to| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![to]);
        while let Some(at) = next.pop() {
            if seen.insert(at) {
                let on = arrows.keys().filter(|(from, _)| from == at);
                next.extend(on.map(|(_, to)| to));
            }
        }
        seen.contains(from)
    };
    let back = arrows.iter().filter(|((from, to), _)| leads_back(from, to));
    back.flat_map(|(_, names)| names.clone()).collect()
}

/// What the text takes by `use`.
fn paths(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let line = code[..at].rsplit('\n').next().unwrap().trim_start();
        if line.is_empty() || line.starts_with("pub") {
            expand("", code[at + 4..].split(';').next().unwrap(), &mut found);
        }
    }
    found
}

/// `a::{b, c::d}` to `a::b` and `a::c::d`.
fn expand(before: &str, tree: &str, found: &mut Vec<String>) {
    let Some((head, rest)) = tree.split_once('{') else {
        let path = format!("{before}{}", tree.trim());
        return found.push(path.trim_end_matches("::self").to_owned());
    };
    let (mut depth, before) = (0, format!("{before}{}", head.trim()));
    let parts = rest.trim_end().trim_end_matches('}').split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    for part in parts.filter(|part| !part.trim().is_empty()) {
        expand(&before, part, found);
    }
}

/// The module that has what a path names, seen from `module`, and its name there. What is of another crate is nowhere: at the root.
fn resolve(modules: &Modules, module: &str, path: &str) -> (String, String) {
    let mut at = module.to_owned();
    for part in path.split("::") {
        let within = below(&at, part);
        match part {
            "crate" => at.clear(),
            "self" => {}
            "super" => at.truncate(at.rfind('/').unwrap_or(0)),
            _ if modules.contains_key(&within) => at = within,
            _ if path.starts_with(part) => return (String::new(), String::new()),
            _ => {
                let own = modules.get(&at).map_or(Vec::new(), |text| paths(text));
                let ends = format!("::{part}");
                let passes_on = |from: &&String| from.ends_with(&ends) && *from != path;
                let passed_on = own.iter().find(passes_on);
                return match passed_on {
                    Some(from) => resolve(modules, &at, from),
                    None => (at, part.to_owned()),
                };
            }
        }
    }
    (at, "all".to_owned())
}

#[test]
fn a_circle_is_found_with_the_names_that_tie_it() {
    let found = |of_c: &str| {
        let files = [
            ("", "mod a;\nmod b;\npub use b::c::Passed;"),
            ("a", "use super::Passed;"),
            ("b", "mod c;\npub struct Face;\nuse c::Passed;"),
            ("b/c", of_c),
        ];
        circles(&files.map(|(name, text)| (name.into(), text.into())).into())
    };
    assert_eq!(
        found("use super::Face;\n#[cfg(test)]\nmod tests {\n    use crate::a::A;").len(),
        0
    );
    let of_c = "use crate::{\n    a::{self, A},\n    std,\n};";
    let ties = "a takes Passed of b/c, b/c takes A of a, b/c takes all of a";
    assert_eq!(found(of_c).join(", "), ties);
}
