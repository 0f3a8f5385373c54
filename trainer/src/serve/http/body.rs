//! The body of a request, read as far as the server has room for it.

use std::sync::Arc;

use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;

use super::Server;
use crate::serve::api::ApiError;

/// A whole body. Its room is given back when it is dropped.
pub(super) struct Body(pub(super) Bytes);

impl FromRequest<Arc<Server>> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, ApiError> {
        let body = request.into_body();
        let announced = body.size_hint().exact().map(|bytes| bytes as usize);
        let read = server.bodies.read(announced, body.into_data_stream()).await;
        read.map(Self).map_err(|fault| {
            let message = fault.to_string();
            match StatusCode::from_u16(fault.status()) {
                Ok(StatusCode::SERVICE_UNAVAILABLE) => ApiError::unavailable(message),
                Ok(status) => ApiError::new(status, "BadRequestError", message),
                Err(_) => ApiError::bad_request(message),
            }
        })
    }
}
