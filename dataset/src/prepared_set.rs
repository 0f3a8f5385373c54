//! The prepared set as it lies in the passing folder: `tokens.safetensors`, then `report.json`, which makes it whole.
//!
//! A side is three tensors: all tokens in a row (u32), one loss flag each (u8), and where each row starts and the last one
//! ends (u64).

use std::path::Path;

use finetune_artifacts::digest;
use finetune_artifacts::safetensors_file::{self, Dtype, SafetensorsFile, TensorData};
use finetune_artifacts::store::Store;
use finetune_crds::FineTuneJobSpec;
use finetune_crds::contract::layout::PREPARED;

use super::prepare::{Error, Prepared, Report};
use super::tokenized_row::TokenizedRow;

const TOKENS: &str = "tokens.safetensors";
const REPORT: &str = "report.json";

/// The place of a job's prepared set, and what the set must have been made for.
#[derive(Clone, Copy, Debug)]
pub struct PreparedSet<'a> {
    /// The job's passing folder.
    pub passing: &'a Store,
    /// The job.
    pub spec: &'a FineTuneJobSpec,
    /// The digest of tokenizer and chat template.
    pub tokenizer_digest: &'a str,
}

impl PreparedSet<'_> {
    /// Writes the set; `local` is a folder of its own for the file on its way. The report goes last: without it there is no set.
    /// One that was made for something else is not overwritten.
    pub async fn write(&self, mut prepared: Prepared, local: &Path) -> Result<Prepared, Error> {
        let store = self.passing.child(PREPARED)?;
        if let Some(found) = self.report().await? {
            self.refuse_other(&found)?;
        }
        let path = local.join(TOKENS);
        write_tokens(&path, &prepared)?;
        prepared.report.spec_digest = self.spec.digest();
        prepared.report.tokens_digest = digest::of_file(&path)?.0;
        store.upload(TOKENS, &path).await?;
        store
            .write(REPORT, prepared.report.to_json().into())
            .await?;
        Ok(prepared)
    }

    /// Reads the set; `None` where there is none yet. One that was made for another manifest, tokenizer or chat template is
    /// refused, and tokens beyond the `vocabulary`. `local` is a folder of its own for the file on its way.
    pub async fn load(&self, vocabulary: i64, local: &Path) -> Result<Option<Prepared>, Error> {
        let Some(report) = self.report().await? else {
            return Ok(None);
        };
        self.refuse_other(&report)?;
        let path = local.join(TOKENS);
        self.passing
            .child(PREPARED)?
            .download(TOKENS, &path, Some(&report.tokens_digest), &|_, _| {})
            .await?;
        let file =
            SafetensorsFile::open(&path).map_err(|error| Error::Prepared(error.to_string()))?;
        Ok(Some(Prepared {
            train: read_side(&file, "train", vocabulary)?,
            validation: read_side(&file, "validation", vocabulary)?,
            report,
        }))
    }

    /// The day that the set was prepared for; `None` where there is no set, or its rows know of no day.
    pub async fn day(&self) -> Result<Option<jiff::civil::Date>, Error> {
        let Some(day) = self.report().await?.and_then(|report| report.day) else {
            return Ok(None);
        };
        let parsed = day.parse();
        parsed.map(Some).map_err(|error| {
            Error::Prepared(format!(
                "{REPORT}: `day` is {day:?}, expected a date: {error}"
            ))
        })
    }

    async fn report(&self) -> Result<Option<Report>, Error> {
        let store = self.passing.child(PREPARED)?;
        let Some(bytes) = store.read_optional(REPORT).await? else {
            return Ok(None);
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::Prepared(format!("{}: {error}", store.uri_of(REPORT))))
    }

    fn refuse_other(&self, report: &Report) -> Result<(), Error> {
        let what = if !self.spec.has_digest(&report.spec_digest) {
            "spec"
        } else if report.tokenizer_digest != self.tokenizer_digest {
            "tokenizer or chat template"
        } else {
            return Ok(());
        };
        Err(Error::Stale {
            uri: format!("{}{PREPARED}", self.passing.uri()),
            what,
            cure: "use another work folder, or delete this one",
        })
    }
}

fn write_tokens(path: &Path, prepared: &Prepared) -> Result<(), Error> {
    let sides = [
        ("train", Flat::of(&prepared.train)),
        ("validation", Flat::of(&prepared.validation)),
    ];
    let tensors: Vec<(String, Dtype, [usize; 1], &[u8])> = sides
        .iter()
        .flat_map(|(side, flat)| {
            [
                (
                    format!("{side}.tokens"),
                    Dtype::U32,
                    [flat.loss.len()],
                    flat.tokens.as_slice(),
                ),
                (
                    format!("{side}.loss"),
                    Dtype::U8,
                    [flat.loss.len()],
                    flat.loss.as_slice(),
                ),
                (
                    format!("{side}.starts"),
                    Dtype::U64,
                    [flat.starts.len() / 8],
                    flat.starts.as_slice(),
                ),
            ]
        })
        .collect();
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let data = TensorData {
            dtype: *dtype,
            shape,
            bytes,
        };
        (name.as_str(), data)
    });
    safetensors_file::write(path, views, None).map_err(|error| match error {
        safetensors_file::Error::Io { path, source } => {
            finetune_artifacts::Error::local("write", &path, source).into()
        }
        other => Error::Prepared(other.to_string()),
    })
}

/// Rows one after another, as bytes.
struct Flat {
    tokens: Vec<u8>,
    loss: Vec<u8>,
    starts: Vec<u8>,
}

impl Flat {
    fn of(rows: &[TokenizedRow]) -> Self {
        let mut flat = Self {
            tokens: Vec::new(),
            loss: Vec::new(),
            starts: 0u64.to_le_bytes().to_vec(),
        };
        for row in rows {
            flat.tokens
                .extend(row.tokens.iter().flat_map(|token| token.to_le_bytes()));
            flat.loss
                .extend(row.loss.iter().map(|loss| u8::from(*loss)));
            flat.starts.extend((flat.loss.len() as u64).to_le_bytes());
        }
        flat
    }
}

fn read_side(
    file: &SafetensorsFile,
    side: &str,
    vocabulary: i64,
) -> Result<Vec<TokenizedRow>, Error> {
    let fault = |what: &str| Error::Prepared(format!("{}: {side}: {what}", file.path().display()));
    let tensor = |name: &str| {
        file.tensor(&format!("{side}.{name}"))
            .map_err(|error| Error::Prepared(error.to_string()))
    };
    let tokens = tensor("tokens")?
        .to_u32()
        .ok_or_else(|| fault("tokens are no u32"))?;
    let starts = tensor("starts")?
        .to_u64()
        .ok_or_else(|| fault("starts are no u64"))?;
    let loss = tensor("loss")?.bytes;
    if loss.len() != tokens.len() {
        return Err(fault("tokens and loss flags are not equally many"));
    }
    if tokens.iter().any(|token| i64::from(*token) >= vocabulary) {
        return Err(fault("a token lies beyond the vocabulary"));
    }
    starts
        .windows(2)
        .map(|pair| {
            let range = pair[0] as usize..pair[1] as usize;
            let tokens = tokens
                .get(range.clone())
                .ok_or_else(|| fault("a row lies outside"))?;
            let loss = &loss[range];
            Ok(TokenizedRow {
                tokens: tokens.to_vec(),
                loss: loss.iter().map(|flag| *flag != 0).collect(),
            })
        })
        .collect()
}
