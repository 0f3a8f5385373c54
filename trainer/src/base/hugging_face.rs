//! The files of a Hugging Face directory: which belong to the model, and where its weights lie: in one safetensors file, or
//! in several with an index. A pickle is refused by name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::{Error, is_gguf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const CONFIGURATION: &str = "config.json";
/// How many files of a folder a message names.
const SHOWN: usize = 3;
/// Files that make a model beside its weights, where they are there.
const COMPANIONS: [&str; 6] = [
    "chat_template.jinja",
    CONFIGURATION,
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];
/// The tokenizer in its newer form.
const TOKENIZER: &str = "tokenizer.json";
/// The tokenizer in its older form: part of the model where the newer one is not there.
const OLDER_TOKENIZER: [&str; 2] = ["tokenizer.model", "added_tokens.json"];

/// Files that a multimodal model has beside: nothing here reads them, and a model made from this one needs them.
const OF_IMAGES: [&str; 3] = [
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
];

/// Whether a path below the folder only belongs to a model made from this one. No part of the base's digest.
pub(super) fn goes_along(path: &str) -> bool {
    OF_IMAGES.contains(&path)
}

/// Of the paths below a folder those that are part of the model: not, for example, the same weights in another format.
pub(super) fn belonging<'a>(paths: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let paths: BTreeSet<&str> = paths.collect();
    let newer = paths.contains(TOKENIZER);
    let belongs = |path: &&str| {
        COMPANIONS.contains(path) || is_weights(path) || (!newer && OLDER_TOKENIZER.contains(path))
    };
    paths
        .into_iter()
        .filter(belongs)
        .map(str::to_owned)
        .collect()
}

/// The names of the files beside the weights that `folder` can have.
fn companion_names(folder: &Path) -> impl Iterator<Item = &'static str> {
    let older = match folder.join(TOKENIZER).is_file() {
        true => [].as_slice(),
        false => &OLDER_TOKENIZER,
    };
    COMPANIONS.iter().chain(older).copied()
}

/// Whether a path below the folder holds weights or says where they are.
pub(super) fn is_weights(path: &str) -> bool {
    path == SINGLE || path == INDEX || is_shard(path)
}

/// Whether a name is that of a pickle: weights in a form that runs code when it is read.
pub(super) fn is_pickle(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| {
        ["bin", "pt", "pth", "ckpt", "pkl", "pickle"]
            .iter()
            .any(|pickle| extension.eq_ignore_ascii_case(pickle))
    })
}

/// Refuses a folder of these files whose weights are all pickles.
pub(super) fn refuse_pickles<'a>(
    folder: &str,
    paths: impl Iterator<Item = &'a str>,
) -> Result<(), Error> {
    let mut pickle = None;
    for path in paths {
        if is_weights(path) {
            return Ok(());
        }
        if is_pickle(path) {
            pickle.get_or_insert(path);
        }
    }
    match pickle {
        None => Ok(()),
        Some(path) => Err(Error::invalid(folder, pickle_fault(path))),
    }
}

/// Refuses a folder of these files that has no configuration, and says what is meant by what it has. An empty one is another
/// fault.
pub(super) fn refuse_without_configuration<'a>(
    folder: &str,
    paths: impl Iterator<Item = &'a str>,
) -> Result<(), Error> {
    let paths: Vec<&str> = paths.collect();
    if paths.is_empty() || paths.contains(&CONFIGURATION) {
        return Ok(());
    }
    let of = |wanted: &dyn Fn(&str) -> bool| -> Vec<&str> {
        paths.iter().copied().filter(|path| wanted(path)).collect()
    };
    let models = of(&is_gguf);
    let folders = of(&|path| path.ends_with(&format!("/{CONFIGURATION}")));
    let (held, cure) = match (models.as_slice(), folders.as_slice()) {
        ([model], _) => (
            &models,
            format!("name that file, by a URI that ends in `/{model}`"),
        ),
        ([model, ..], _) => (
            &models,
            format!("name one of these files, such as by a URI that ends in `/{model}`"),
        ),
        ([], [inner, ..]) => {
            let inner = inner.trim_end_matches(CONFIGURATION);
            (
                &folders,
                format!("name the folder of the model, by a URI that ends in `/{inner}`"),
            )
        }
        ([], []) => (
            &paths,
            "name a folder as Hugging Face has it, or a GGUF file".to_owned(),
        ),
    };
    Err(Error::invalid(
        folder,
        format!("holds {} and no {CONFIGURATION}: {cure}", listed(held)),
    ))
}

/// Names of files for a message, the first of them.
fn listed(names: &[&str]) -> String {
    let shown = names.iter().take(SHOWN);
    let shown: Vec<String> = shown
        .map(|name| format!("`{}`", name.escape_debug()))
        .collect();
    let more = if names.len() > SHOWN { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// What is wrong with the pickle `path`, and the cure.
pub(super) fn pickle_fault(path: &str) -> String {
    format!(
        "{path} is a pickle, which runs code when it is read, expected {SINGLE} or {INDEX}: load it where that is safe, and \
         save it again with `save_pretrained`, which writes safetensors"
    )
}

fn is_shard(path: &str) -> bool {
    path.starts_with("model-")
        && path.ends_with(".safetensors")
        && !path.contains(['/', '\\', '\0'])
}

/// The files of the model in `folder`.
pub(super) fn file_names(folder: &Path) -> Result<Vec<String>, Error> {
    let mut names: Vec<String> = companion_names(folder)
        .filter(|name| folder.join(name).is_file())
        .map(str::to_owned)
        .collect();
    let shards = shard_names(folder)?;
    if folder.join(INDEX).is_file() {
        names.push(INDEX.to_owned());
    }
    names.extend(shards);
    Ok(names)
}

/// The files beside the weights, with their content.
pub(super) fn companions(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut files = Vec::new();
    for name in companion_names(folder).chain(OF_IMAGES) {
        let path = folder.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => files.push((name.to_owned(), bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Error::invalid(
                    path.display().to_string(),
                    error.to_string(),
                ));
            }
        }
    }
    Ok(files)
}

/// The index of a model in several files.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn index(folder: &Path) -> Result<Option<Index>, Error> {
    let path = folder.join(INDEX);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Error::invalid(
                path.display().to_string(),
                error.to_string(),
            ));
        }
    };
    let fault = |message: String| Error::invalid(path.display().to_string(), message);
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| fault(error.to_string()))?;
    if index.weight_map.is_empty() {
        return Err(fault("its `weight_map` is empty".to_owned()));
    }
    if let Some(name) = index.weight_map.values().find(|name| !is_shard(name)) {
        return Err(fault(format!(
            "it names the file {name:?}, expected `model-….safetensors` in the same folder"
        )));
    }
    Ok(Some(index))
}

pub(super) fn shard_names(folder: &Path) -> Result<Vec<String>, Error> {
    if folder.join(SINGLE).is_file() {
        return Ok(vec![SINGLE.to_owned()]);
    }
    match index(folder)? {
        Some(index) => {
            let names: BTreeSet<String> = index.weight_map.into_values().collect();
            Ok(names.into_iter().collect())
        }
        None => {
            let folder = folder.display().to_string();
            let names = std::fs::read_dir(&folder)
                .map_err(|error| Error::invalid(folder.clone(), error.to_string()))?
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .collect::<BTreeSet<_>>();
            refuse_pickles(&folder, names.iter().map(String::as_str))?;
            Err(Error::invalid(
                folder,
                format!(
                    "it has neither {SINGLE} nor {INDEX}: weights are read from safetensors only"
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use finetune_artifacts::cache::Cache;
    use finetune_artifacts::credentials::Credentials;
    use rstest::rstest;

    use crate::base::{BaseModelFiles, Fetch};

    #[rstest]
    #[case::one_gguf(
        &["SmolLM2.Q4_1.gguf", "README.md"],
        "holds `SmolLM2.Q4_1.gguf` and no config.json: name that file, by a URI that ends in `/SmolLM2.Q4_1.gguf`"
    )]
    #[case::several(
        &["a.gguf", "b.GGUF"],
        "holds `a.gguf`, `b.GGUF` and no config.json: name one of these files"
    )]
    #[case::the_folder_above(
        &["base/config.json", "base/model.safetensors"],
        "holds `base/config.json` and no config.json: name the folder of the model, by a URI that ends in `/base/`"
    )]
    #[case::something_else(
        &["a", "b", "c", "d"],
        "holds `a`, `b`, `c`, … and no config.json: name a folder as Hugging Face has it, or a GGUF file"
    )]
    #[tokio::test]
    async fn a_folder_that_is_no_model_is_told_by_what_it_holds(
        #[case] files: &[&str],
        #[case] expected: &str,
    ) {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let uri = format!("file://{}/", folder.path().display());
        let cache = Cache::new(&folder.path().join("cache"));
        let fetch = Fetch::WithoutWeights;
        let found = BaseModelFiles::fetch(&uri, &Credentials::default(), &cache, fetch).await;
        let message = found.unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("base model {uri}: {expected}")),
            "{message}"
        );
    }
}
