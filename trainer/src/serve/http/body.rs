//! The body of a request, read as far as the server has room for it.

use std::sync::Arc;

use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use finetune_artifacts::network::bodies::{Announced, Limits, MAX_BODY};

use super::Server;
use super::error::ApiError;

/// The room for bodies.
pub(in crate::serve) const LIMITS: Limits = Limits {
    body: MAX_BODY,
    small: 1 << 20,
    all_small: 32 << 20,
    small_waiting: 64,
    large: 4,
    large_waiting: 16,
};

/// A whole body. Its room is given back when it is dropped.
pub(super) struct Body(pub(super) Bytes);

impl FromRequest<Arc<Server>> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, ApiError> {
        let (head, body) = request.into_parts();
        let announced = Announced {
            length: body.size_hint().exact().map(|bytes| bytes as usize),
            expects_continue: head.headers.contains_key(header::EXPECT),
        };
        let read = server.bodies.read(announced, body.into_data_stream()).await;
        read.map(Self)
            .map_err(|fault| ApiError::refused(fault.status(), fault.to_string()))
    }
}
