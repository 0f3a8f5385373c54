//! Numbers of the reference, and comparing with them as near as its own rounding allows.

use std::ops::Deref;

use finetune_numerics::optimizer::Parameters;
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::fixture::{Tensors, assert_close, assert_near, json, tensors};
use crate::tolerance::Rounding;

/// What a mistake moves logits by, at least: far above every tolerance.
pub(crate) const MISTAKE: f64 = 1e-2;

/// How far all gradients together may be at most, computed in bfloat16, by the Euclidean norm.
const MOST_IN_BF16: f64 = 0.1;

/// Numbers of the reference, computed in double precision.
pub(crate) struct Expected {
    tensors: Tensors,
    rounding: Rounding,
}

impl Deref for Expected {
    type Target = Tensors;

    fn deref(&self) -> &Tensors {
        &self.tensors
    }
}

pub(crate) fn expected(relative: &str) -> Expected {
    Expected {
        tensors: tensors(relative),
        rounding: Rounding::of(relative),
    }
}

impl Expected {
    /// How far ours in fp32 may be, relative to the largest value of the tensor.
    #[track_caller]
    pub(crate) fn tolerance(&self, key: &str) -> f64 {
        self.rounding.single(key)
    }

    /// How far two of ours in fp32 may be from each other, where each sums in its own way.
    #[track_caller]
    pub(crate) fn between(&self, key: &str) -> f64 {
        2.0 * self.tolerance(key)
    }

    /// How far ours in bfloat16 may be, by the Euclidean norm.
    #[track_caller]
    pub(crate) fn tolerance_in_bf16(&self, key: &str) -> f64 {
        self.rounding.brain(key)
    }

    #[track_caller]
    pub(crate) fn assert_close(&self, key: &str, ours: &Tensor) {
        assert_close(key, ours, &self.tensors[key], self.tolerance(key));
    }

    /// One number of a tensor.
    #[track_caller]
    pub(crate) fn assert_number(&self, key: &str, index: i64, ours: f64) {
        let size = self.tensors[key].abs().max().double_value(&[]);
        let right = self.tensors[key].double_value(&[index]);
        let distance = (ours - right).abs() / size;
        let tolerance = self.tolerance(key);
        assert!(
            distance <= tolerance,
            "{key} {index} is {ours}, expected {right}: difference {distance:.2e}, expected at most {tolerance:.1e}"
        );
    }

    /// The only number of a tensor.
    #[track_caller]
    pub(crate) fn assert_near(&self, key: &str, ours: f64) {
        assert_eq!(self.tensors[key].numel(), 1, "{key}");
        self.assert_number(key, 0, ours);
    }

    /// A loss or a norm that was computed in bfloat16.
    #[track_caller]
    pub(crate) fn assert_number_in_bf16(&self, key: &str, index: i64, ours: f64) {
        let right = self.tensors[key].double_value(&[index]);
        assert_near(key, ours, right, self.tolerance_in_bf16(key));
    }

    /// Compares every gradient of a group of parameters with the tensors `<prefix><name>`.
    #[track_caller]
    pub(crate) fn assert_gradients(&self, parameters: &Parameters, prefix: &str) {
        for (key, gradient) in self.gradients(parameters, prefix) {
            self.assert_close(&key, &gradient);
        }
    }

    /// Compares all gradients together, computed in bfloat16. What is recorded is how far the worst single tensor is; all together
    /// are nearer to each other, and a tenth off is a mistake and no rounding.
    #[track_caller]
    pub(crate) fn assert_gradients_in_bf16(&self, parameters: &Parameters, prefix: &str) {
        let square = |tensor: &Tensor| tensor.square().sum(Kind::Double).double_value(&[]);
        let (mut apart, mut size) = (0.0, 0.0);
        for (key, gradient) in self.gradients(parameters, prefix) {
            apart += square(&(gradient - &self.tensors[&key]));
            size += square(&self.tensors[&key]);
        }
        let (distance, tolerance) = (
            (apart / size).sqrt(),
            self.tolerance_in_bf16(prefix).min(MOST_IN_BF16),
        );
        assert!(
            distance <= tolerance,
            "gradients in bf16: relative difference {distance:.2e}, expected at most {tolerance:.1e}"
        );
    }

    fn gradients(&self, parameters: &Parameters, prefix: &str) -> Vec<(String, Tensor)> {
        let list = parameters.list();
        let listed = self.tensors.keys().filter(|key| key.starts_with(prefix));
        assert_eq!(listed.count(), list.len());
        let each = list.iter().map(|parameter| {
            let gradient = parameters.gradient(parameter).unwrap();
            (format!("{prefix}{}", parameter.name), gradient)
        });
        each.collect()
    }
}

/// Losses of a reference that is wrong in ways that have names, and how far ours may be from them when it is wrong in that way.
pub(crate) struct WrongLosses {
    pub(crate) report: Value,
    tolerance: f64,
}

pub(crate) fn wrong_losses(relative: &str) -> WrongLosses {
    WrongLosses {
        report: json(relative),
        tolerance: Rounding::of(relative).single("loss"),
    }
}

impl WrongLosses {
    #[track_caller]
    pub(crate) fn assert_near(&self, way: &str, ours: f64, wrong: &Value) {
        assert_near(way, ours, wrong.as_f64().unwrap(), self.tolerance);
    }
}
