//! Why a row becomes no tokens.

use crate::template;

/// Why a row becomes no tokens.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The row is at fault, or the template with this row.
    #[error("{0}")]
    Row(String),
    /// The template is at fault, and would be so with other rows: none need be tried.
    #[error("{0}")]
    Template(template::Error),
}

impl From<String> for Refusal {
    fn from(message: String) -> Self {
        Self::Row(message)
    }
}

impl From<template::Error> for Refusal {
    fn from(error: template::Error) -> Self {
        match error {
            template::Error::Exhausted(_) | template::Error::Thread(_) => Self::Template(error),
            error => Self::Row(error.to_string()),
        }
    }
}
