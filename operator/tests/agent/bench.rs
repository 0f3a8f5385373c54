//! An agent beside a fake engine, with a store in a folder.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use finetune_artifacts::credentials::Credentials;
use finetune_artifacts::publish::publish;
use finetune_artifacts::safetensors_file::{Dtype, TensorData, write};
use finetune_artifacts::store::Store;
use finetune_crds::contract::golden::{Golden, GoldenSample};
use finetune_crds::contract::layout::version_name;
use operator::agent::desired::{Desired, DesiredAdapter, DesiredVersion, Role};
use operator::agent::state::{State, VersionState};
use operator::agent::{self, Arguments};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::fake_engine::{FakeEngine, base_log_probability};

const MODULE: &str = "base_model.model.model.layers.0.self_attn.q_proj";
const TOKENS: [u32; 5] = [3, 1, 4, 1, 5];

pub(crate) struct Bench {
    pub engine: FakeEngine,
    pub folder: tempfile::TempDir,
    pub client: reqwest::Client,
    proxy: SocketAddr,
    state: SocketAddr,
    agent: Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
}

/// An agent in a process of its own.
pub(crate) struct AgentProcess(std::process::Child);

impl AgentProcess {
    /// The most memory that it has had, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kibibytes << 10
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let mut bench = Self {
            engine: FakeEngine::start().await,
            folder: tempfile::tempdir().unwrap(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            proxy: free_address(),
            state: free_address(),
            agent: None,
        };
        bench.start_agent();
        bench
    }

    pub(crate) fn start_agent(&mut self) {
        let arguments = Arguments {
            desired: self.folder.path().join("desired.json"),
            adapters: self.adapters(),
            credentials: None,
            credentials_secret: None,
            engine_host: "127.0.0.1".into(),
            proxy_listen: self.proxy,
            state_listen: self.state,
            drain_seconds: 60,
            pre_stop_socket: self.pre_stop_socket(),
        };
        let token = CancellationToken::new();
        let shutdown = token.clone();
        let task = tokio::spawn(async move { agent::run(arguments, shutdown).await.unwrap() });
        self.agent = Some((token, task));
    }

    /// The same agent as a process of its own, whose memory is nobody else's. It ends with what is returned.
    pub(crate) async fn start_with_process() -> (Self, AgentProcess) {
        let bench = Self {
            engine: FakeEngine::start().await,
            folder: tempfile::tempdir().unwrap(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            proxy: free_address(),
            state: free_address(),
            agent: None,
        };
        let process = std::process::Command::new(env!("CARGO_BIN_EXE_operator"))
            .arg("agent")
            .arg("--desired")
            .arg(bench.folder.path().join("desired.json"))
            .arg("--adapters")
            .arg(bench.adapters())
            .arg("--pre-stop-socket")
            .arg(bench.pre_stop_socket())
            .arg(format!("--proxy-listen={}", bench.proxy))
            .arg(format!("--state-listen={}", bench.state))
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        (bench, AgentProcess(process))
    }

    /// Where the pod's end is announced.
    pub(crate) fn pre_stop_socket(&self) -> PathBuf {
        self.folder.path().join("pre-stop.sock")
    }

    pub(crate) const fn proxy(&self) -> SocketAddr {
        self.proxy
    }

    pub(crate) async fn stop_agent(&mut self) {
        let (token, task) = self.agent.take().unwrap();
        token.cancel();
        // Connections that the test's client keeps open hold a graceful end up.
        task.abort();
        task.await.ok();
    }

    pub(crate) fn adapters(&self) -> PathBuf {
        self.folder.path().join("adapters")
    }

    /// Publishes an adapter that shifts each log-probability by `effect`.
    pub(crate) async fn publish(&self, name: &str, effect: f32) -> DesiredVersion {
        let local = tempfile::tempdir().unwrap();
        let path = |name: &str| local.path().join(name);
        std::fs::write(path("adapter_config.json"), r#"{"peft_type":"LORA","r":1}"#).unwrap();
        let (a, b) = (
            1.0_f32.to_le_bytes().repeat(4),
            effect.to_le_bytes().repeat(3),
        );
        let data = |shape: &'static [usize], bytes| TensorData {
            dtype: Dtype::F32,
            shape,
            bytes,
        };
        let names = ["A", "B"].map(|matrix| format!("{MODULE}.lora_{matrix}.weight"));
        let tensors = [
            (names[0].as_str(), data(&[1, 4], &a)),
            (names[1].as_str(), data(&[3, 1], &b)),
        ];
        write(&path("adapter_model.safetensors"), tensors, None).unwrap();
        let base: Vec<_> = TOKENS[1..]
            .iter()
            .map(|token| base_log_probability(u64::from(*token)))
            .collect();
        let golden = Golden {
            dtype: "float32".into(),
            tolerance: 0.01,
            samples: vec![GoldenSample {
                tokens: TOKENS.into(),
                adapter: base.iter().map(|value| value + f64::from(effect)).collect(),
                base,
            }],
        };
        std::fs::write(path("golden.json"), serde_json::to_vec(&golden).unwrap()).unwrap();
        std::fs::write(path("README.md"), "not for the engine").unwrap();
        let uri = format!("file://{}/store/", self.folder.path().display());
        let store = Store::open(&uri, &Credentials::default()).unwrap();
        let published = publish(&store, name, local.path()).await.unwrap();
        DesiredVersion {
            version: version_name(name, &published.digest),
            uri: published.uri,
            digest: published.digest,
            role: Role::Candidate,
        }
    }

    /// Writes `desired.json` as the kubelet does: a new file in place of the old one.
    pub(crate) fn desire(&self, adapters: &[(&str, &[(&DesiredVersion, Role)])]) {
        let version = |(version, role): &(&DesiredVersion, Role)| DesiredVersion {
            role: *role,
            ..(*version).clone()
        };
        let desired = Desired {
            engine: serde_json::from_value(json!({"type": "Finetune", "port": self.engine.port}))
                .unwrap(),
            adapters: adapters
                .iter()
                .map(|(alias, versions)| DesiredAdapter {
                    alias: (*alias).to_owned(),
                    versions: versions.iter().map(version).collect(),
                })
                .collect(),
        };
        self.write_desired(&serde_json::to_vec(&desired).unwrap());
    }

    pub(crate) fn write_desired(&self, bytes: &[u8]) {
        let new = self.folder.path().join("desired.new");
        std::fs::write(&new, bytes).unwrap();
        std::fs::rename(new, self.folder.path().join("desired.json")).unwrap();
    }

    pub(crate) async fn state(&self) -> State {
        let url = format!("http://{}/state", self.state);
        match self.client.get(url).send().await {
            Ok(response) => response.json().await.unwrap(),
            Err(_) => State::default(),
        }
    }

    /// The state of a version.
    pub(crate) async fn version(&self, version: &DesiredVersion) -> VersionState {
        let state = self.state().await;
        let found = state
            .versions
            .into_iter()
            .find(|state| state.version == version.version);
        found.unwrap_or_default()
    }

    pub(crate) async fn ready(&self) -> Result<(), String> {
        let url = format!("http://{}/readyz", self.state);
        let response = self
            .client
            .get(url)
            .send()
            .await
            .map_err(|error| error.to_string())?;
        if response.status() == 200 {
            Ok(())
        } else {
            assert_eq!(response.status(), 503);
            Err(response.text().await.unwrap())
        }
    }

    pub(crate) async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.state);
        self.client
            .get(url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }

    /// Asks the proxy.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> reqwest::Response {
        let url = format!("http://{}{path}", self.proxy);
        self.client.post(url).json(body).send().await.unwrap()
    }

    /// Asks the proxy for a completion: the status and the body.
    pub(crate) async fn complete(&self, model: &str) -> (u16, Value) {
        let response = self
            .post(
                "/v1/completions",
                &json!({"model": model, "prompt": "hello"}),
            )
            .await;
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub(crate) async fn models(&self) -> Vec<String> {
        let url = format!("http://{}/v1/models", self.proxy);
        let list: Value = self
            .client
            .get(url)
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let cards = list["data"].as_array().unwrap();
        cards
            .iter()
            .map(|card| card["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until the pod is ready.
    pub(crate) async fn until_ready(&self) {
        let mut last = Err("never asked".to_owned());
        for _ in 0..200 {
            last = self.ready().await;
            if last.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not ready after 20 s: {last:?}; {:?}", self.state().await);
    }

    /// Waits until the state is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) -> State {
        for _ in 0..250 {
            let state = self.state().await;
            if wanted(&state) {
                return state;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not {what} after 25 s: {:?}", self.state().await);
    }
}

/// The state of a version in `state`.
pub(crate) fn of<'a>(state: &'a State, version: &DesiredVersion) -> Option<&'a VersionState> {
    state
        .versions
        .iter()
        .find(|found| found.version == version.version)
}
