//! An error as clients see it: a status and vLLM's nested body `{"error": {message, type, param, code}}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// What a request cannot have, and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    field: Option<String>,
}

impl ApiError {
    /// A field of the request is wrong.
    pub(crate) fn field(name: impl Into<String>, message: impl Into<String>) -> Self {
        let field = Some(name.into());
        Self {
            field,
            ..Self::new(StatusCode::BAD_REQUEST, "BadRequestError", message)
        }
    }

    /// The request is wrong as a whole.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequestError", message)
    }

    /// vLLM's class for a wrong name or path of an adapter.
    pub(crate) fn user_input(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidUserInput", message)
    }

    /// A model, adapter or path that does not exist.
    pub(crate) fn not_found(field: Option<&str>, message: impl Into<String>) -> Self {
        let field = field.map(str::to_owned);
        Self {
            field,
            ..Self::new(StatusCode::NOT_FOUND, "NotFoundError", message)
        }
    }

    /// No such model, as OpenAI and vLLM word it.
    pub(crate) fn unknown_model(name: &str) -> Self {
        Self::not_found(Some("model"), format!("The model `{name}` does not exist."))
    }

    /// What is loaded stands in the way. Not a 400: the same request succeeds once another adapter is gone.
    pub(crate) fn conflict(reason: impl ToString) -> Self {
        Self::new(StatusCode::CONFLICT, "ConflictError", reason.to_string())
    }

    /// The server cannot take the request now.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailableError",
            message,
        )
    }

    /// The server is at fault.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalServerError",
            message,
        )
    }

    /// Any other status.
    pub(crate) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            field: None,
        }
    }

    /// The body; also what a stream sends that fails after its head.
    pub(crate) fn body(&self) -> Value {
        json!({ "error": {
            "message": self.message, "type": self.kind, "param": self.field, "code": self.status.as_u16(),
        } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
