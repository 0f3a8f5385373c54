//! A server in this process, and a client of it.

use std::path::{Path, PathBuf};

use clap::Parser;
use finetune_artifacts::rows::Message;
use finetune_dataset::tokenize::Tokenizer;
use futures::StreamExt;
use reqwest::{Response, StatusCode};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use trainer::serve::{Options, Running, start};

pub(crate) fn fixture(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(relative)
}

pub(crate) fn adapter_path(name: &str) -> String {
    fixture("adapters").join(name).display().to_string()
}

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    options: Options,
}

/// The options of `trainer serve --model <model> <flags>`, on a free port.
pub(crate) fn options(model: &Path, flags: &[&str]) -> Options {
    let model = model.display().to_string();
    let fixed = [
        "serve",
        "--model",
        &model,
        "--served-model-name",
        "tiny",
        "--port",
        "0",
        "--compute-type",
        "float32",
        "--threads",
        "1",
    ];
    CommandLine::parse_from(fixed.into_iter().chain(flags.iter().copied())).options
}

pub(crate) struct Server {
    pub(crate) running: Running,
    http: reqwest::Client,
    url: String,
}

/// The tiny model, `flags` added.
pub(crate) async fn server(flags: &[&str]) -> Server {
    serve(&fixture("tiny-llama"), flags).await
}

pub(crate) async fn serve(model: &Path, flags: &[&str]) -> Server {
    let running = start(&options(model, flags)).await.unwrap();
    let url = format!("http://{}", running.address());
    Server {
        running,
        http: reqwest::Client::new(),
        url,
    }
}

/// The tiny model with room for answers so long that tests can act while one is computed.
pub(crate) async fn endless(flags: &[&str]) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    for file in [
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(fixture("tiny-llama").join(file), folder.path().join(file)).unwrap();
    }
    let config = std::fs::read(fixture("tiny-llama/config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["max_position_embeddings"] = json!(1_000_000);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    (serve(folder.path(), flags).await, folder)
}

/// A model that answers every conversation with `said`, whose pieces are tokens of its own, special ones where it is so marked,
/// and then ends the turn. `template` is its chat template.
pub(crate) fn scripted(template: &str, said: &[(&str, bool)]) -> tempfile::TempDir {
    const WIDTH: usize = 32;
    let folder = tempfile::tempdir().unwrap();
    let read = |file: &str| -> Value {
        serde_json::from_slice(&std::fs::read(fixture("tiny-llama").join(file)).unwrap()).unwrap()
    };
    let write = |file: &str, value: &Value| {
        std::fs::write(folder.path().join(file), value.to_string()).unwrap();
    };
    let mut tokenizer = read("tokenizer.json");
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    let first = 320;
    for (place, (text, special)) in said.iter().enumerate() {
        added.push(json!({
            "id": first + place, "content": text, "special": special, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false,
        }));
    }
    write("tokenizer.json", &tokenizer);
    let mut settings = read("tokenizer_config.json");
    settings["chat_template"] = json!(template);
    write("tokenizer_config.json", &settings);
    let size = first + said.len();
    let mut config = read("config.json");
    config["vocab_size"] = json!(size);
    config["tie_word_embeddings"] = json!(false);
    config["max_position_embeddings"] = json!(4096);
    write("config.json", &config);

    // The token that an answer follows, the pieces, the end of the turn: each is followed by the next one.
    let files = Tokenizer::from_directory(folder.path()).unwrap();
    let question = [Message::new("user", "x")];
    let prompt = files
        .template()
        .unwrap()
        .render(&question, &[], true)
        .unwrap();
    let last = *files.encode(&prompt).unwrap().last().unwrap() as usize;
    let pieces = first..size;
    let chain: Vec<usize> = std::iter::once(last).chain(pieces).chain([2]).collect();
    // Columns of a Hadamard matrix are as different as can be.
    let sign = |row: usize, column: usize| {
        if (row & column).count_ones().is_multiple_of(2) {
            1.0f32
        } else {
            -1.0
        }
    };
    let mut embedding = vec![0f32; size * WIDTH];
    let mut head = vec![0f32; size * WIDTH];
    for (place, pair) in chain.windows(2).enumerate() {
        for column in 0..WIDTH {
            embedding[pair[0] * WIDTH + column] = sign(place + 1, column);
            head[pair[1] * WIDTH + column] += sign(place + 1, column);
        }
    }
    let bytes = std::fs::read(fixture("tiny-llama/model.safetensors")).unwrap();
    let before = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for (name, view) in before.tensors() {
        let count: usize = view.shape().iter().product();
        let values = match name.as_str() {
            "model.embed_tokens.weight" => continue,
            name if name.contains("norm") => vec![1.0; count],
            _ => vec![0.0; count],
        };
        tensors.push((name, view.shape().to_vec(), values));
    }
    tensors.push((
        "model.embed_tokens.weight".to_owned(),
        vec![size, WIDTH],
        embedding,
    ));
    tensors.push(("lm_head.weight".to_owned(), vec![size, WIDTH], head));
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| {
            values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect()
        })
        .collect();
    let views = tensors.iter().zip(&data).map(|((name, shape, _), data)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).unwrap();
        (name.as_str(), view)
    });
    let file = folder.path().join("model.safetensors");
    safetensors::serialize_to_file(views, None, &file).unwrap();
    folder
}

/// A request for an answer of `tokens` tokens that no end token cuts.
pub(crate) fn long(tokens: usize) -> Value {
    json!({ "model": "tiny", "prompt": "Once", "max_tokens": tokens, "ignore_eos": true, "stream": true, "temperature": 0 })
}

impl Server {
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.http
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn send(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.http
            .post(format!("{}{path}", self.url))
            .body(body)
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let response = self.send(path, body.to_string()).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    /// The answer to a completion that must succeed.
    pub(crate) async fn complete(&self, body: Value) -> Value {
        let (status, answer) = self.post("/v1/completions", &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }

    /// The chunks of a stream that must succeed; asserts that it ends in `[DONE]`.
    pub(crate) async fn stream(&self, path: &str, mut body: Value) -> Vec<Value> {
        body["stream"] = json!(true);
        let response = self.send(path, body.to_string()).await;
        assert_eq!(response.status(), StatusCode::OK);
        let text = response.text().await.unwrap();
        let mut events: Vec<&str> = text
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "))
            .collect();
        assert_eq!(events.pop(), Some("[DONE]"), "{text}");
        events
            .into_iter()
            .map(|event| serde_json::from_str(event).unwrap())
            .collect()
    }

    pub(crate) async fn load(&self, name: &str, path: &str) -> (StatusCode, Value) {
        self.post(
            "/v1/load_lora_adapter",
            &json!({ "lora_name": name, "lora_path": path }),
        )
        .await
    }

    pub(crate) async fn unload(&self, name: &str) -> (StatusCode, Value) {
        self.post("/v1/unload_lora_adapter", &json!({ "lora_name": name }))
            .await
    }

    /// The value of a metric, its labels written as Prometheus prints them.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until a metric has a value; fails after five minutes.
    pub(crate) async fn wait_for(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        for _ in 0..15_000 {
            if wanted(self.metric(name).await) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("{name} is still {}", self.metric(name).await);
    }
}

/// Starts a stream and returns when its first bytes are here; dropping what it returns hangs up.
pub(crate) async fn started(
    server: &Server,
    body: &Value,
) -> impl futures::Stream<Item = reqwest::Result<bytes::Bytes>> + Unpin + use<> {
    let response = server.send("/v1/completions", body.to_string()).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut stream = Box::pin(response.bytes_stream());
    stream.next().await.unwrap().unwrap();
    stream
}
