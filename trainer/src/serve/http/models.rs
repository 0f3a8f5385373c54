//! `/v1/models`, and vLLM's routes to load and unload an adapter.

use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path as UrlPath, State};

use super::Server;
use super::body::Body;
use super::error::ApiError;
use crate::serve::api::{
    LOAD_ADAPTER, LoadAdapterRequest, ModelCard, ModelList, UNLOAD_ADAPTER, UnloadAdapterRequest,
    read,
};
use crate::serve::request_error::RequestError;

/// `GET /v1/models`.
pub(super) async fn list(State(server): State<Arc<Server>>) -> Json<ModelList> {
    Json(ModelList {
        object: "list",
        data: cards(&server),
    })
}

/// `GET /v1/models/{name}`.
pub(super) async fn find(
    State(server): State<Arc<Server>>,
    name: Result<UrlPath<String>, PathRejection>,
) -> Result<Json<ModelCard>, ApiError> {
    let UrlPath(name) = name.map_err(|_| {
        let message = "the model's name in the path is not UTF-8, expected percent-encoded UTF-8";
        RequestError::field("model", message)
    })?;
    let mut cards = cards(&server).into_iter();
    let card = cards.find(|card| card.id == name);
    card.map(Json)
        .ok_or_else(|| RequestError::UnknownModel(name).into())
}

/// The base, then its adapters.
fn cards(server: &Server) -> Vec<ModelCard> {
    let max_model_len = server.engine.context().tokens;
    let card = |id: String, created, root, parent| ModelCard {
        id,
        object: "model",
        created,
        owned_by: "finetune-operator",
        root,
        parent,
        max_model_len,
    };
    let base = card(
        server.name.clone(),
        server.started,
        server.root.clone(),
        None,
    );
    let adapters = server.engine.adapters().into_iter();
    let adapters = adapters.map(|served| {
        card(
            served.name,
            served.created,
            served.root,
            Some(server.name.clone()),
        )
    });
    std::iter::once(base).chain(adapters).collect()
}

/// `POST /v1/load_lora_adapter`.
pub(super) async fn load(
    State(server): State<Arc<Server>>,
    Body(body): Body,
) -> Result<String, ApiError> {
    let request: LoadAdapterRequest = read(&body, &LOAD_ADAPTER)?;
    let name = request.lora_name.unwrap_or_default();
    let path = request.lora_path.unwrap_or_default();
    if name.is_empty() || path.is_empty() {
        return Err(wrong_name(
            "Both 'lora_name' and 'lora_path' must be provided.",
        ));
    }
    if request.load_inplace == Some(true) {
        return Err(wrong_name(
            "'load_inplace' is not supported: load the new weights under another name",
        ));
    }
    if !Path::new(&path).is_absolute() {
        return Err(wrong_name(format!(
            "'lora_path' is '{path}', expected an absolute path on the server's machine"
        )));
    }
    let success = format!("Success: LoRA adapter '{name}' added successfully.");
    let created = (server.now)();
    let load = move || server.engine.load(&name, &path, Path::new(&path), created);
    let loaded = tokio::task::spawn_blocking(load).await;
    loaded.map_err(|error| {
        RequestError::Internal(format!("loading the adapter failed: {error}"))
    })??;
    Ok(success)
}

/// `POST /v1/unload_lora_adapter`.
pub(super) async fn unload(
    State(server): State<Arc<Server>>,
    Body(body): Body,
) -> Result<String, ApiError> {
    let request: UnloadAdapterRequest = read(&body, &UNLOAD_ADAPTER)?;
    let name = request.lora_name.unwrap_or_default();
    if name.is_empty() {
        return Err(wrong_name(
            "'lora_name' needs to be provided to unload a LoRA adapter.",
        ));
    }
    server.engine.unload(&name)?;
    Ok(format!(
        "Success: LoRA adapter '{name}' removed successfully."
    ))
}

fn wrong_name(message: impl Into<String>) -> ApiError {
    RequestError::AdapterName(message.into()).into()
}
