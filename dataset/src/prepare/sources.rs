//! Fetches the files of a data set and reads their rows.

use std::fs::File;
use std::path::PathBuf;

use finetune_artifacts::cache::Cache;
use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::manifest::{Manifest, ManifestFile};
use finetune_artifacts::rows::{Row, RowFormat, RowReader, Rows, Unread};
use finetune_artifacts::store::Store;
use finetune_artifacts::uri::Location;
use finetune_artifacts::{Error as StoreError, digest};
use finetune_crds::fine_tune_job::{Columns, Dataset, Replay, Source};

use super::error::Error;

/// The rows of a data set.
pub(super) struct Sources {
    pub(super) train: Vec<Row>,
    /// Rows of files of their own; those that are held back by a fraction are still in `train`.
    pub(super) validation: Vec<Row>,
    pub(super) format: RowFormat,
    /// General data.
    pub(super) replay: Option<GeneralRows>,
    /// What is odd about the files and no fault.
    pub(super) oddities: Oddities,
    /// Over the names and digests of all files.
    pub(super) digest: String,
}

/// General data to choose from.
pub(super) struct GeneralRows {
    pub(super) rows: Vec<Row>,
    pub(super) format: RowFormat,
}

/// What is odd about the files.
#[derive(Clone, Default)]
pub(super) struct Oddities {
    /// Files that begin with a byte order mark.
    pub(super) byte_order_marks: usize,
    /// Files whose lines end in carriage return and line feed.
    pub(super) carriage_returns: usize,
    /// Columns that nothing reads.
    pub(super) unread: Unread,
}

impl Oddities {
    fn add(&mut self, rows: &Rows) {
        self.byte_order_marks += rows.byte_order_marks.len();
        self.carriage_returns += rows.carriage_returns.len();
        self.unread.add(&rows.unread);
    }
}

/// A file of the data, on this machine.
struct LocalFile {
    /// Its URI without a query, which messages show.
    uri: String,
    path: PathBuf,
    /// Its name in the manifest over which the data's digest is computed.
    name: String,
}

impl LocalFile {
    /// A file that a source names by itself.
    fn single(location: &Location, prefix: &str, path: PathBuf) -> Self {
        // The query of a URL may hold a signature, which nobody else should see and which changes without the data.
        let shown = location.to_string();
        let name = shown.rsplit('/').next().unwrap_or(&shown);
        Self {
            path,
            name: format!("{prefix}/{name}"),
            uri: shown,
        }
    }
}

/// Reads all rows; malformed ones of all training files are reported together, then those of the validation files.
pub(super) async fn read(
    dataset: &Dataset,
    credentials: &Credentials,
    cache: &Cache,
) -> Result<Sources, Error> {
    let mut files = Vec::new();
    let mut oddities = Oddities::default();
    let columns = dataset.columns.clone().unwrap_or_default();
    for (number, source) in dataset.train.iter().enumerate() {
        files.extend(fetch(source, &format!("train/{number}"), credentials, cache).await?);
    }
    let train = rows(&files, RowReader::new(dataset.format), &columns)?;
    oddities.add(&train);
    let Some(format) = train.format else {
        return Err(Error::Empty(
            "dataset.train holds no row, expected at least one".to_owned(),
        ));
    };

    let wanted = dataset.validation.as_ref().and_then(|v| v.sources.as_ref());
    let mut validation_files = Vec::new();
    for (number, source) in wanted.into_iter().flatten().enumerate() {
        let prefix = format!("validation/{number}");
        validation_files.extend(fetch(source, &prefix, credentials, cache).await?);
    }
    let reader = RowReader::of_format(Some(format), "as the rows of dataset.train are");
    let validation = rows(&validation_files, reader, &columns)?;
    oddities.add(&validation);
    if wanted.is_some() && validation.rows.is_empty() {
        return Err(Error::Empty(
            "dataset.validation.sources hold no row, expected at least one".to_owned(),
        ));
    }
    files.extend(validation_files);

    let replay = match &dataset.replay {
        None => None,
        Some(replay) => {
            let (general, general_files) =
                general(replay, credentials, cache, &mut oddities).await?;
            files.extend(general_files);
            Some(general)
        }
    };
    Ok(Sources {
        train: train.rows,
        validation: validation.rows,
        format,
        replay,
        oddities,
        digest: digest_of(&files)?,
    })
}

async fn general(
    replay: &Replay,
    credentials: &Credentials,
    cache: &Cache,
    oddities: &mut Oddities,
) -> Result<(GeneralRows, Vec<LocalFile>), Error> {
    let mut files = Vec::new();
    for (number, source) in replay.sources.iter().enumerate() {
        files.extend(fetch(source, &format!("replay/{number}"), credentials, cache).await?);
    }
    let format = RowFormat::wanted(replay.format);
    let reader = RowReader::of_format(format, "as dataset.replay.format says");
    let found = rows(&files, reader, &Columns::default())?;
    oddities.unread.add(&found.unread);
    match found.format {
        Some(format) if !found.rows.is_empty() => Ok((
            GeneralRows {
                rows: found.rows,
                format,
            },
            files,
        )),
        _ => Err(Error::Empty(
            "dataset.replay.sources hold no row, expected at least one".to_owned(),
        )),
    }
}

async fn fetch(
    source: &Source,
    prefix: &str,
    credentials: &Credentials,
    cache: &Cache,
) -> Result<Vec<LocalFile>, Error> {
    let uri = &source.uri;
    let location = Location::parse(uri)?;
    if !location.is_folder() {
        let path = cache.file(uri, credentials).await?;
        return Ok(vec![LocalFile::single(&location, prefix, path)]);
    }
    let shown = location.to_string();
    let mut entries = Store::open(uri, credentials)?.list("").await?;
    entries.retain(|entry| is_data(&entry.path));
    entries.sort_by(|left, right| left.path.cmp(&right.path));
    let folder = cache.directory(uri, credentials, is_data).await?;
    Ok(entries
        .into_iter()
        .map(|entry| LocalFile {
            uri: format!("{shown}{}", entry.path),
            path: folder.join(&entry.path),
            name: format!("{prefix}/{}", entry.path),
        })
        .collect())
}

/// Whether a file below a folder of data is a part of it. Other systems leave files and folders behind, such as `_SUCCESS`,
/// `_delta_log` and `.gitattributes`.
fn is_data(path: &str) -> bool {
    !path.split('/').any(|part| part.starts_with(['.', '_']))
}

fn rows(files: &[LocalFile], reader: RowReader, columns: &Columns) -> Result<Rows, Error> {
    let mut reader = reader.with_columns(columns);
    for file in files {
        File::open(&file.path)
            .and_then(|source| reader.read_file(&file.uri, source))
            .map_err(|source| StoreError::local("read", &file.path, source))?;
    }
    Ok(reader.finish()?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_neither_shown_nor_a_part_of_the_datas_name() {
        let file = |uri: &str| {
            LocalFile::single(
                &Location::parse(uri).unwrap(),
                "train/0",
                PathBuf::from("a"),
            )
        };
        let signed = file("https://host/team/a.csv?signature=hidden&path=/b");
        assert_eq!(signed.uri, "https://host/team/a.csv");
        assert_eq!(signed.name, "train/0/a.csv");
        assert_eq!(file("s3://data/team/a.csv").name, "train/0/a.csv");
    }

    #[test]
    fn what_other_systems_leave_in_a_folder_is_no_data() {
        for path in ["a.jsonl", "2026/a_b.c.jsonl"] {
            assert!(is_data(path), "{path}");
        }
        for path in [
            "_SUCCESS",
            ".a.jsonl",
            "_delta_log/0.json",
            "a/.cache/b.jsonl",
        ] {
            assert!(!is_data(path), "{path}");
        }
    }
}
