//! The command line of `trainer serve`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ToolCallParser;

/// Serves a base model and its adapters over HTTP, as OpenAI's API and vLLM's adapter routes.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The base: a folder in Hugging Face's layout or a GGUF file; a path or any URI that baseModel.uri takes
    #[arg(long, value_name = "URI", env = "FINETUNE_SERVE_MODEL")]
    pub model: String,
    /// The base's name in requests [default: the last part of its URI]
    #[arg(long, value_name = "NAME", env = "FINETUNE_SERVE_MODEL_NAME")]
    pub served_model_name: Option<String>,
    /// An adapter to load at the start, and its name in requests; may be given several times
    #[arg(long = "adapter", value_name = "NAME=URI", value_parser = named, value_delimiter = ',', env = "FINETUNE_ADAPTERS")]
    pub adapters: Vec<(String, String)>,
    /// The address to listen on; 0.0.0.0 for all
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

fn named(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, uri)) if !name.is_empty() && !uri.is_empty() => {
            Ok((name.to_owned(), uri.to_owned()))
        }
        _ => Err(format!("`{text}`, expected NAME=URI")),
    }
}
