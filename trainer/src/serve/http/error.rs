//! An error as clients see it: a status and vLLM's nested body `{"error": {message, type, param, code}}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::serve::request_error::RequestError;

/// vLLM's classes of errors.
const BAD_REQUEST: &str = "BadRequestError";
const USER_INPUT: &str = "InvalidUserInput";
const NOT_FOUND: &str = "NotFoundError";
const CONFLICT: &str = "ConflictError";
const UNAVAILABLE: &str = "ServiceUnavailableError";
const INTERNAL: &str = "InternalServerError";

/// What a request cannot have, and why.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    field: Option<String>,
}

impl ApiError {
    /// A path that does not exist.
    pub(super) fn no_path(message: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, NOT_FOUND, message)
    }

    /// A request that HTTP itself refuses with this status.
    pub(super) fn refused(status: StatusCode, message: String) -> Self {
        let kind = match status {
            StatusCode::SERVICE_UNAVAILABLE => UNAVAILABLE,
            _ => BAD_REQUEST,
        };
        Self::new(status, kind, message)
    }

    fn new(status: StatusCode, kind: &'static str, message: String) -> Self {
        Self {
            status,
            kind,
            message,
            field: None,
        }
    }

    /// The body; also what a stream sends that fails after its head.
    pub(super) fn body(&self) -> Value {
        json!({ "error": {
            "message": self.message, "type": self.kind, "param": self.field, "code": self.status.as_u16(),
        } })
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let (status, kind) = match &error {
            RequestError::Field { .. } | RequestError::Request(_) => {
                (StatusCode::BAD_REQUEST, BAD_REQUEST)
            }
            RequestError::AdapterName(_) => (StatusCode::BAD_REQUEST, USER_INPUT),
            RequestError::UnknownModel(_)
            | RequestError::UnknownAdapter(_)
            | RequestError::MissingAdapter { .. }
            | RequestError::Unloaded => (StatusCode::NOT_FOUND, NOT_FOUND),
            // No 400: the same request succeeds once another adapter is gone.
            RequestError::TooManyAdapters { .. } | RequestError::NoRoom(_) => {
                (StatusCode::CONFLICT, CONFLICT)
            }
            RequestError::Full { .. }
            | RequestError::NotNow(_)
            | RequestError::OutOfMemory(_)
            | RequestError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE),
            RequestError::Computation(_) | RequestError::Internal(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, INTERNAL)
            }
        };
        Self {
            field: error.param().map(str::to_owned),
            ..Self::new(status, kind, error.to_string())
        }
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::field(RequestError::field("n", "`n` is 2"), 400, "BadRequestError", "n")]
    #[case::model(RequestError::UnknownModel("a".into()), 404, "NotFoundError", "model")]
    #[case::unloaded(RequestError::Unloaded, 404, "NotFoundError", "model")]
    #[case::adapter_name(RequestError::AdapterName("''".into()), 400, "InvalidUserInput", "")]
    #[case::adapters(RequestError::TooManyAdapters { count: 2, most: 2 }, 409, "ConflictError", "")]
    #[case::full(RequestError::Full { running: 1, waiting: 0 }, 503, "ServiceUnavailableError", "")]
    #[case::stopping(RequestError::Stopping, 503, "ServiceUnavailableError", "")]
    #[case::memory(RequestError::OutOfMemory(1), 503, "ServiceUnavailableError", "")]
    #[case::worker(RequestError::no_worker(), 500, "InternalServerError", "")]
    fn what_went_wrong_has_a_status_a_class_and_a_field(
        #[case] error: RequestError,
        #[case] status: u16,
        #[case] kind: &str,
        #[case] field: &str,
    ) {
        let message = error.to_string();
        let error = ApiError::from(error);
        let field = (!field.is_empty()).then_some(field);
        let expected = json!({ "error": { "message": message, "type": kind, "param": field, "code": status } });
        assert_eq!(error.body(), expected);
        let response = error.into_response();
        assert_eq!(response.status(), status);
        assert_eq!(
            response.headers().contains_key("retry-after"),
            status == 503
        );
    }
}
