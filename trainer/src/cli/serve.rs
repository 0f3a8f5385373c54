//! `trainer serve`: the embedded inference server.

use finetune_crds::contract::ExitCode;

use super::end;
use crate::failure::Failure;
use crate::serve::{self, Options};
use crate::stop::Stop;

pub(super) async fn run(options: &Options, stop: &Stop) -> ExitCode {
    match serve::serve(options, stop).await {
        Ok(()) => ExitCode::Done,
        Err(error) => {
            let failure = Failure::new(error.reason(), error.to_string());
            end::report(&failure);
            failure.exit_code()
        }
    }
}
