//! Fetches the files of a data set and reads their rows.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::manifest::{Manifest, ManifestFile};
use finetune_artifacts::rows::{Row, RowFormat, RowReader};
use finetune_artifacts::store::Store;
use finetune_artifacts::{Error as StoreError, digest};
use finetune_crds::fine_tune_job::{Dataset, Source};

use super::Error;

/// The rows of a data set.
pub(super) struct Sources {
    pub(super) train: Vec<Row>,
    /// Rows of files of their own; those that are held back by a fraction are still in `train`.
    pub(super) validation: Vec<Row>,
    pub(super) format: RowFormat,
    /// Over the names and digests of all files.
    pub(super) digest: String,
}

/// A file of the data, on this machine.
struct LocalFile {
    /// Its URI, which messages show.
    uri: String,
    path: PathBuf,
    /// Its name in the manifest over which the data's digest is computed.
    name: String,
}

/// Reads all rows; malformed ones of all training files are reported together, then those of the validation files.
pub(super) async fn read(
    dataset: &Dataset,
    credentials: &Credentials,
    cache: &Cache,
) -> Result<Sources, Error> {
    let mut files = Vec::new();
    for (number, source) in dataset.train.iter().enumerate() {
        files.extend(fetch(source, &format!("train/{number}"), credentials, cache).await?);
    }
    let (train, format) = rows(&files, RowReader::new(dataset.format))?;
    let Some(format) = format else {
        return Err(Error::Empty(
            "dataset.train holds no row, expected at least one JSON object a line".to_owned(),
        ));
    };

    let wanted = dataset.validation.as_ref().and_then(|v| v.sources.as_ref());
    let mut validation_files = Vec::new();
    for (number, source) in wanted.into_iter().flatten().enumerate() {
        let prefix = format!("validation/{number}");
        validation_files.extend(fetch(source, &prefix, credentials, cache).await?);
    }
    let (validation, _) = rows(&validation_files, RowReader::of_format(Some(format)))?;
    if wanted.is_some() && validation.is_empty() {
        return Err(Error::Empty(
            "dataset.validation.sources hold no row, expected at least one".to_owned(),
        ));
    }
    files.extend(validation_files);
    Ok(Sources {
        train,
        validation,
        format,
        digest: digest_of(&files)?,
    })
}

async fn fetch(
    source: &Source,
    prefix: &str,
    credentials: &Credentials,
    cache: &Cache,
) -> Result<Vec<LocalFile>, Error> {
    let uri = &source.uri;
    if !uri.ends_with('/') {
        let path = cache.file(uri, credentials).await?;
        let name = uri.rsplit('/').next().unwrap_or(uri);
        return Ok(vec![LocalFile {
            uri: uri.clone(),
            path,
            name: format!("{prefix}/{name}"),
        }]);
    }
    let mut entries = Store::open(uri, credentials)?.list("").await?;
    entries.sort_by(|left, right| left.path.cmp(&right.path));
    let folder = cache.directory(uri, credentials, |_| true).await?;
    Ok(entries
        .into_iter()
        .map(|entry| LocalFile {
            uri: format!("{uri}{}", entry.path),
            path: folder.join(&entry.path),
            name: format!("{prefix}/{}", entry.path),
        })
        .collect())
}

fn rows(
    files: &[LocalFile],
    mut reader: RowReader,
) -> Result<(Vec<Row>, Option<RowFormat>), Error> {
    for file in files {
        File::open(&file.path)
            .and_then(|source| reader.read(&file.uri, BufReader::with_capacity(1 << 20, source)))
            .map_err(|source| StoreError::local("read", &file.path, source))?;
    }
    let rows = reader.finish()?;
    Ok((rows.rows, rows.format))
}

fn digest_of(files: &[LocalFile]) -> Result<String, Error> {
    let mut list = files
        .iter()
        .map(|file| {
            let (digest, size) = digest::of_file(&file.path)?;
            Ok(ManifestFile {
                path: file.name.clone(),
                size,
                sha256: digest.replacen("sha256:", "", 1),
            })
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    list.sort_by(|left, right| left.path.cmp(&right.path));
    Ok(Manifest { files: list }.digest())
}
