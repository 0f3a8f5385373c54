//! Continues a prompt with what a job has made, for a look at what it has learnt. Serves nobody and keeps nothing.

use finetune_artifacts::rows::Message;
use finetune_crds::contract::Published;
use finetune_dataset::tokenize::Tokenizer;
use finetune_numerics::adapter::Lora;
use finetune_numerics::model::{Base, LogitRows};

use crate::base::{BaseModelFiles, Fetch};
use crate::failure::Failure;
use crate::job::{Job, TrainingMethod};
use crate::outcome;
use crate::peft;
use crate::run::inputs;
use crate::run::trainee::load_base;
use crate::serve::sampling::{Sampler, Sampling};
use crate::serve::text::IncrementalText;
use crate::workplace::Workplace;

/// Tokens of a prompt that are computed in one go: attention's memory grows with the square.
const CHUNK: usize = 256;

/// A prompt, and how it is continued.
#[derive(Clone, Debug)]
pub struct Request {
    /// The text.
    pub prompt: String,
    /// What the system says before it. Only with the chat template.
    pub system: Option<String>,
    /// Whether the text is continued as it is, not put as a user's turn into the chat template.
    pub raw: bool,
    /// A PEFT adapter; absent: the one that the job has published, if it has.
    pub adapter: Option<String>,
    /// The most tokens to add.
    pub max_new_tokens: usize,
    /// 0 takes the likeliest token.
    pub temperature: f64,
    /// Only the likeliest tokens that together have this probability.
    pub top_p: f64,
    /// Makes the choice repeatable.
    pub seed: Option<u64>,
}

/// Loads the job's model and hands the answer to `write`, piece by piece. An error of `write` ends it early: the reader is
/// gone.
pub async fn generate(
    job: &Job,
    place: &Workplace,
    request: &Request,
    write: &mut dyn FnMut(&str) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let (files, lora) = model_of(job, place, request.adapter.as_deref()).await?;
    let base = load_base(job, &files)?;
    let prompt = prompt_of(files.tokenizer(), request)?;
    answer(
        &base,
        lora.as_ref(),
        files.tokenizer(),
        &prompt,
        request,
        write,
    )
}

/// The base's files and the adapter. With method full, what the job has published stands for the base.
async fn model_of(
    job: &Job,
    place: &Workplace,
    adapter: Option<&str>,
) -> Result<(BaseModelFiles, Option<Lora>), Failure> {
    let outcome = outcome::find(&place.job_folder, job).await?;
    let published = |of: fn(finetune_crds::contract::Outcome) -> Option<Published>| {
        outcome.clone().and_then(of).map(|published| published.uri)
    };
    let model = match &job.method {
        TrainingMethod::Full => published(|outcome| outcome.model),
        TrainingMethod::Lora(_) | TrainingMethod::Qlora { .. } => None,
    };
    tracing::info!(
        "model {}",
        model.as_ref().unwrap_or(&job.spec.base_model.uri)
    );
    let files = match &model {
        Some(uri) => {
            let credentials = &place.output_credentials;
            BaseModelFiles::fetch(uri, credentials, &place.cache, Fetch::Whole).await?
        }
        None => inputs::fetch(job, place, Fetch::Whole).await?,
    };
    let adapter = match adapter {
        Some(uri) => Some(uri.to_owned()),
        None => published(|outcome| outcome.adapter),
    };
    let lora = match adapter {
        Some(uri) => {
            tracing::info!("adapter {uri}");
            let folder = peft::fetch(&uri, &place.output_credentials, &place.cache).await?;
            Some(peft::read(&folder, files.config())?.lora)
        }
        None => {
            if model.is_none() {
                tracing::warn!(
                    "the job has published nothing yet and --adapter is absent: the base alone answers"
                );
            }
            None
        }
    };
    Ok((files, lora))
}

/// The tokens of the prompt, by the model's template unless it is raw.
fn prompt_of(tokenizer: &Tokenizer, request: &Request) -> Result<Vec<u32>, Failure> {
    let failed =
        |error: finetune_dataset::tokenize::Error| Failure::invalid(format!("--prompt: {error}"));
    let tokens = if request.raw {
        tokenizer.encode_sequence(&request.prompt).map_err(failed)?
    } else {
        let system = request.system.iter();
        let messages: Vec<Message> = system
            .map(|text| Message::new("system", text))
            .chain([Message::new("user", &request.prompt)])
            .collect();
        let template = tokenizer
            .template()
            .map_err(|error| Failure::invalid(format!("{error}; or use --raw")))?;
        let text = template
            .render(&messages, &[], true)
            .map_err(Failure::invalid)?;
        tokenizer.encode(&text).map_err(failed)?
    };
    if tokens.is_empty() {
        return Err(Failure::invalid("--prompt has no token, expected a text"));
    }
    Ok(tokens)
}

fn answer(
    base: &Base,
    lora: Option<&Lora>,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    request: &Request,
    write: &mut dyn FnMut(&str) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let made_for = base.config().max_position_embeddings as usize;
    let room = made_for.saturating_sub(prompt.len());
    if room == 0 {
        return Err(Failure::invalid(format!(
            "--prompt has {} tokens, expected fewer than the {made_for} that the model was made for",
            prompt.len()
        )));
    }
    let most = request.max_new_tokens.min(room);
    let mut sampler = Sampler::new(Sampling {
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: None,
        seed: request.seed,
    });
    let mut text = IncrementalText::new(tokenizer, prompt);
    let mut cache = base.new_cache(0);
    let mut tokens: Vec<i64> = prompt.iter().map(|token| i64::from(*token)).collect();
    let _no_gradients = tch::no_grad_guard();
    for _ in 0..most {
        // As a rule all tokens but the last are in the cache.
        let computed = cache.prepare(tokens.len() as i64);
        let mut logits = None;
        for chunk in tokens[computed as usize..].chunks(CHUNK) {
            logits = Some(base.forward_cached(lora, chunk, &mut cache, LogitRows::Last)?);
        }
        let Some(row) = logits else { break };
        let row: Vec<f32> = Vec::try_from(row.f_reshape([-1])?)?;
        let token = sampler.choose(&row);
        if tokenizer.stop_ids().contains(&token) {
            break;
        }
        let piece = text.push(tokenizer, token).map_err(Failure::internal)?;
        if write(&piece).is_err() {
            return Ok(());
        }
        tokens.push(i64::from(token));
    }
    // A reader that is gone misses nothing.
    let _ = write(&text.finish());
    Ok(())
}
