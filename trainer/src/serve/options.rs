//! The command line of `trainer serve`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ToolCallParser;
use super::byte_count;

/// Serves a base model and its adapters over HTTP, as OpenAI's API and vLLM's adapter routes.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The base: a folder in Hugging Face's layout or a GGUF file; a path or any URI that baseModel.uri takes
    #[arg(long, value_name = "URI", env = "FINETUNE_SERVE_MODEL")]
    pub model: String,
    /// The base's name in requests [default: the last part of its URI]
    #[arg(long, value_name = "NAME", env = "FINETUNE_SERVE_MODEL_NAME")]
    pub served_model_name: Option<String>,
    /// An adapter to load at the start, and its name in requests; may be given several times, in the variable one a line
    #[arg(long = "adapter", value_name = "NAME=URI", value_parser = named, env = "FINETUNE_ADAPTERS")]
    pub adapters: Vec<NamedAdapters>,
    /// The address to listen on; :: for all, of IPv4 too
    #[arg(long, default_value = "127.0.0.1", env = "FINETUNE_LISTEN_HOST")]
    pub host: String,
    /// The port to listen on; 0 lets the system choose
    #[arg(long, default_value_t = 8000, env = "FINETUNE_LISTEN_PORT")]
    pub port: u16,
    /// A folder with one file for each credential (AWS_ACCESS_KEY_ID, …) [default: the environment]
    #[arg(long, value_name = "DIR", env = "FINETUNE_CREDENTIALS")]
    pub credentials: Option<PathBuf>,
    /// Where downloads are kept [default: `finetune` in the user's cache, or in the temporary folder]
    #[arg(long, value_name = "DIR", env = "FINETUNE_CACHE")]
    pub cache: Option<PathBuf>,
    /// The type in which the base is held
    #[arg(long, value_enum, default_value_t = ComputeType::Auto, env = "FINETUNE_COMPUTE_TYPE")]
    pub compute_type: ComputeType,
    /// The most tokens of prompt and answer together [default: what the model was made for]
    #[arg(long, value_name = "N", env = "FINETUNE_MAX_MODEL_LEN")]
    pub max_model_len: Option<usize>,
    /// The most adapters that are loaded at a time
    #[arg(
        long,
        value_name = "N",
        default_value_t = 16,
        env = "FINETUNE_MAX_ADAPTERS"
    )]
    pub max_adapters: usize,
    /// The greatest rank of an adapter
    #[arg(
        long,
        value_name = "N",
        default_value_t = 256,
        env = "FINETUNE_MAX_ADAPTER_RANK"
    )]
    pub max_adapter_rank: usize,
    /// Answers that are computed at a time, in turn
    #[arg(
        long,
        value_name = "N",
        default_value_t = 8,
        env = "FINETUNE_MAX_RUNNING"
    )]
    pub max_running: usize,
    /// Requests that may wait besides; more are refused with 503
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        env = "FINETUNE_MAX_WAITING"
    )]
    pub max_waiting: usize,
    /// Memory for the keys and values of running answers, as 2Gi. An answer takes of it as it grows, by 64 tokens. Requests wait for
    /// it; when it is short, the answer that came last goes back to wait, and is computed again up to where it was. A request
    /// whose prompt and max_tokens cannot fit is refused [default: half of what base and adapters leave of the memory limit]
    #[arg(long, value_name = "BYTES", value_parser = byte_count::parse, env = "FINETUNE_KV_CACHE_MEMORY")]
    pub kv_cache_memory: Option<u64>,
    /// How calls of functions in answers are read
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value_t = ToolCallParser::Auto,
        env = "FINETUNE_TOOL_CALL_PARSER"
    )]
    pub tool_call_parser: ToolCallParser,
    /// Threads of the computation [default: the CPUs that the process may use]
    #[arg(long, value_name = "N", env = "FINETUNE_THREADS")]
    pub threads: Option<std::num::NonZeroU16>,
    /// Seconds that running answers have to end after SIGTERM
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 20,
        env = "FINETUNE_SHUTDOWN_GRACE"
    )]
    pub shutdown_grace: u64,
}

/// The type in which the base is held.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ComputeType {
    /// bfloat16 where the processor multiplies it, else float32
    Auto,
    /// float32
    Float32,
    /// bfloat16
    Bfloat16,
}

/// Adapters with their names: the one of a flag, or all of the environment variable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamedAdapters(pub Vec<(String, String)>);

/// Only a line break separates: a path may hold anything else, commas and `=` too.
fn named(text: &str) -> Result<NamedAdapters, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let adapters: Result<Vec<_>, String> = lines
        .map(|line| match line.split_once('=') {
            Some((name, uri)) if !name.is_empty() && !uri.is_empty() => {
                Ok((name.to_owned(), uri.to_owned()))
            }
            _ => Err(format!("`{line}`, expected NAME=URI")),
        })
        .collect();
    match adapters? {
        none if none.is_empty() => Err("it is empty, expected NAME=URI".to_owned()),
        adapters => Ok(NamedAdapters(adapters)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_an_adapter_may_hold_commas_spaces_and_equals_signs() {
        for uri in [
            "file:///one,two/adapter/",
            "file:///run=3/a b/",
            "s3://bucket/a,b=c,d/",
        ] {
            let expected = NamedAdapters(vec![("a".to_owned(), uri.to_owned())]);
            assert_eq!(named(&format!("a={uri}")), Ok(expected));
        }
    }

    #[test]
    fn the_variable_has_one_adapter_a_line() {
        let NamedAdapters(adapters) = named("a=file:///x,y/\n\n  b=s3://z/\n").unwrap();
        let adapters: Vec<(&str, &str)> = adapters
            .iter()
            .map(|(name, uri)| (name.as_str(), uri.as_str()))
            .collect();
        assert_eq!(adapters, [("a", "file:///x,y/"), ("b", "s3://z/")]);
        for text in ["", "\n", "a", "=file:///x/", "a=", "a=file:///x/\nb"] {
            assert!(named(text).is_err(), "{text:?}");
        }
    }
}
