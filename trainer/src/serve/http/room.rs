//! How long an answer may become. Pure.

use crate::serve::engine::Context;
use crate::serve::request_error::RequestError;

/// How many tokens may follow a prompt of `prompt` tokens, of which the client wants `wanted`. The fields are those of the request
/// that say the one and the other. What would fit without the adapters that are loaded now may fit later, which is another error
/// than a field that asks for too much.
pub(super) fn room(
    limit: Context,
    prompt_field: &str,
    prompt: usize,
    wanted_field: &str,
    wanted: Option<usize>,
) -> Result<usize, RequestError> {
    if prompt == 0 {
        return Err(RequestError::field(
            prompt_field,
            format!("`{prompt_field}` has no tokens, expected at least one"),
        ));
    }
    // The last token that is chosen is not computed any further, but vLLM counts it, and so do clients.
    let needed = prompt.saturating_add(wanted.unwrap_or(1));
    if prompt > limit.tokens || (prompt == limit.tokens && wanted != Some(0)) {
        let message = format!(
            "`{prompt_field}` has {prompt} tokens, expected fewer than {limit}; shorten it"
        );
        return Err(refused(limit, needed, prompt_field, message));
    }
    let left = limit.tokens - prompt;
    match wanted {
        None => Ok(left),
        Some(wanted) if wanted <= left => Ok(wanted),
        Some(wanted) => {
            let message = format!(
                "`{wanted_field}` is {wanted} and the prompt has {prompt} tokens, expected together at most {limit}; shorten the \
                 prompt or lower `{wanted_field}` to {left}"
            );
            Err(refused(limit, needed, wanted_field, message))
        }
    }
}

/// The error of a request that needs so many tokens.
fn refused(limit: Context, needed: usize, field: &str, message: String) -> RequestError {
    if needed > limit.without_adapters {
        return RequestError::field(field, message);
    }
    RequestError::NotNow(format!(
        "{message}, or try again once other adapters are unloaded: without any there is room for {} tokens",
        limit.without_adapters
    ))
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use rstest::rstest;

    use super::*;
    use crate::serve::http::error::ApiError;
    use crate::serve::key_value_memory::{Budget, KeyValueMemory};

    /// Room for 128 tokens beside an adapter that takes that of 192 others.
    fn limit(model: usize) -> Context {
        let rest = Budget::Rest {
            memory: 2 * 320,
            base: 0,
        };
        let memory = KeyValueMemory::new(rest, 1).unwrap();
        let _room = memory.take(2 * 192).unwrap();
        Context::new(model, &memory)
    }

    #[rstest]
    #[case::prompt(128, None)]
    #[case::long_prompt(319, Some(1))]
    #[case::together(100, Some(29))]
    #[case::all_together(100, Some(220))]
    #[case::scored(320, Some(0))]
    fn what_only_loaded_adapters_leave_no_room_for_is_a_passing_fault(
        #[case] prompt: usize,
        #[case] wanted: Option<usize>,
    ) {
        let error = room(limit(1000), "prompt", prompt, "max_tokens", wanted).unwrap_err();
        let message = error.to_string();
        for part in ["128", "--kv-cache-memory", "adapters are unloaded", "320"] {
            assert!(message.contains(part), "{message} without {part}");
        }
        let response = ApiError::from(error).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key("retry-after"));
    }

    #[rstest]
    #[case::prompt(1000, 320, None)]
    #[case::together(1000, 100, Some(221))]
    #[case::scored(1000, 321, Some(0))]
    #[case::long_prompt_and_answer(1000, 200, Some(200))]
    #[case::model_prompt(200, 200, None)]
    #[case::model_together(200, 100, Some(101))]
    #[case::no_memory_is_short(100, 90, Some(11))]
    #[case::far_too_many(1000, 100, Some(usize::MAX))]
    fn what_would_not_fit_without_adapters_either_is_the_requests_own_fault(
        #[case] model: usize,
        #[case] prompt: usize,
        #[case] wanted: Option<usize>,
    ) {
        let error = room(limit(model), "prompt", prompt, "max_tokens", wanted).unwrap_err();
        assert!(matches!(error, RequestError::Field { .. }), "{error:?}");
    }

    #[test]
    fn an_answer_of_no_given_length_may_become_as_long_as_there_is_room_now() {
        let room = |prompt, wanted| room(limit(1000), "prompt", prompt, "max_tokens", wanted);
        assert_eq!(room(28, None).unwrap(), 100);
        assert_eq!(room(28, Some(100)).unwrap(), 100);
        assert_eq!(room(128, Some(0)).unwrap(), 0);
    }
}
