//! The rotation: in keys of its own (`rope_theta`, `rope_scaling`, `partial_rotary_factor`) or, since transformers 5, together
//! in `rope_parameters`. Formulas of defaults as in transformers' `modeling_rope_utils.py`.

use finetune_numerics::ops::rope::{Rope, Scaling};

use super::super::Error;
use super::keys::Keys;

/// The base of the frequencies where no key says one.
pub(super) const THETA: f64 = 10_000.0;

/// What is turned, and what the keys around the parameters say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turned {
    pub(super) head_dim: i64,
    pub(super) max_position_embeddings: i64,
    /// The length that the model was first trained on, where a key beside the parameters, or the family, has one.
    pub(super) original_length: Option<i64>,
    /// Whether the family may turn a part of a head.
    pub(super) partly: bool,
}

/// Reads the rotation of all layers.
pub(super) fn read(keys: &mut Keys, turned: &Turned) -> Result<Rope, Error> {
    let theta = keys.number("rope_theta", THETA)?;
    let partial = keys.optional_number("partial_rotary_factor")?;
    let dimensions = dimensions(keys, partial, turned)?;
    // In transformers the outer key counts, were there an inner one.
    let original_length = keys.optional_size("original_max_position_embeddings")?;
    let turned = Turned {
        original_length: original_length.or(turned.original_length),
        ..*turned
    };
    match (
        keys.object("rope_scaling")?,
        keys.object("rope_parameters")?,
    ) {
        (Some(_), Some(_)) => Err(keys.fault(
            "rope_parameters",
            "it is there beside `rope_scaling`, expected one of them",
        )),
        (Some(inner), None) | (None, Some(inner)) => parameters(inner, theta, dimensions, &turned),
        (None, None) => Ok(Rope {
            theta,
            dimensions,
            scaling: Scaling::None,
        }),
    }
}

/// Reads the object of parameters; `theta` and `dimensions` are what counts where it does not name its own.
pub(super) fn parameters(
    mut inner: Keys,
    theta: f64,
    dimensions: i64,
    turned: &Turned,
) -> Result<Rope, Error> {
    let theta = inner.number("rope_theta", theta)?;
    let dimensions = match inner.optional_number("partial_rotary_factor")? {
        None => dimensions,
        partial => self::dimensions(&inner, partial, turned)?,
    };
    let newer = inner.text("rope_type")?;
    let older = inner.text("type")?;
    let kind = newer.or(older).unwrap_or_else(|| "default".to_owned());
    let scaling = match kind.as_str() {
        "default" => Scaling::None,
        "linear" => Scaling::Linear {
            factor: inner.required_number("factor")?,
        },
        "dynamic" => dynamic(&mut inner, turned)?,
        "llama3" => llama3(&mut inner, turned)?,
        "yarn" if !turned.partly => yarn(&mut inner, turned)?,
        // Phi-3's first files say "su", some "yarn".
        "longrope" | "su" | "yarn" => long(&mut inner, turned)?,
        _ => {
            return Err(inner.fault(
                "rope_type",
                format!(
                    "it is \"{kind}\", which is not supported; expected one of default, linear, dynamic, llama3, yarn, longrope"
                ),
            ));
        }
    };
    inner.refuse_the_rest()?;
    Ok(Rope {
        theta,
        dimensions,
        scaling,
    })
}

/// The elements of a head that are turned.
fn dimensions(keys: &Keys, partial: Option<f64>, turned: &Turned) -> Result<i64, Error> {
    let Some(partial) = partial.filter(|partial| (partial - 1.0).abs() > f64::EPSILON) else {
        return Ok(turned.head_dim);
    };
    let dimensions = (turned.head_dim as f64 * partial) as i64;
    let fits = turned.partly && dimensions % 2 == 0 && (2..=turned.head_dim).contains(&dimensions);
    if fits {
        return Ok(dimensions);
    }
    let expected = if turned.partly {
        "a factor that leaves an even number of elements of the head"
    } else {
        "1"
    };
    Err(keys.fault(
        "partial_rotary_factor",
        format!("it is {partial}, which is not supported; expected {expected}"),
    ))
}

fn original_length(inner: &mut Keys, turned: &Turned) -> Result<i64, Error> {
    let own = inner.optional_size("original_max_position_embeddings")?;
    let length = turned.original_length.or(own);
    Ok(length.unwrap_or(turned.max_position_embeddings))
}

/// The original length is that of the model itself, whatever a key says.
fn dynamic(inner: &mut Keys, turned: &Turned) -> Result<Scaling, Error> {
    let length = turned.max_position_embeddings;
    inner.must_be("original_max_position_embeddings", &[length.into()])?;
    Ok(Scaling::Dynamic {
        factor: inner.required_number("factor")?,
        original_length: length,
    })
}

fn llama3(inner: &mut Keys, turned: &Turned) -> Result<Scaling, Error> {
    let low = inner.required_number("low_freq_factor")?;
    let high = inner.required_number("high_freq_factor")?;
    if high <= low {
        return Err(inner.fault(
            "high_freq_factor",
            format!("it is {high}, expected more than the low_freq_factor {low}"),
        ));
    }
    Ok(Scaling::Llama3 {
        factor: inner.required_number("factor")?,
        low_frequency_factor: low,
        high_frequency_factor: high,
        original_length: original_length(inner, turned)?,
    })
}

fn yarn(inner: &mut Keys, turned: &Turned) -> Result<Scaling, Error> {
    let original_length = original_length(inner, turned)?;
    let ratio = turned.max_position_embeddings as f64 / original_length as f64;
    let factor = inner.number("factor", ratio)?;
    let length = |scale: f64| match factor <= 1.0 {
        true => 1.0,
        false => 0.1 * scale * factor.ln() + 1.0,
    };
    let scales = (
        inner.optional_number("mscale")?,
        inner.optional_number("mscale_all_dim")?,
    );
    let usual = match scales {
        (Some(scale), Some(of_all)) => length(scale) / length(of_all),
        _ => length(1.0),
    };
    Ok(Scaling::Yarn {
        factor,
        beta_fast: inner.number("beta_fast", 32.0)?,
        beta_slow: inner.number("beta_slow", 1.0)?,
        original_length,
        truncate: inner.flag("truncate", true)?,
        attention_factor: inner.number("attention_factor", usual)?,
    })
}

fn long(inner: &mut Keys, turned: &Turned) -> Result<Scaling, Error> {
    let original_length = original_length(inner, turned)?;
    let ratio = turned.max_position_embeddings as f64 / original_length as f64;
    let factor = inner.number("factor", ratio)?;
    let usual = match factor <= 1.0 {
        true => 1.0,
        false => (1.0 + factor.ln() / (original_length as f64).ln()).sqrt(),
    };
    Ok(Scaling::Long {
        short: inner.numbers("short_factor")?,
        long: inner.numbers("long_factor")?,
        original_length,
        attention_factor: inner.number("attention_factor", usual)?,
    })
}
