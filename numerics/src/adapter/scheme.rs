//! Which rank and which scale each module of an adapter has: PEFT's `LoraConfig`, as far as numbers depend on it.

use super::{LoraSettings, Pattern};
use crate::ops::{Error, Result};

/// Ranks and scales of an adapter's modules.
#[derive(Clone, Debug)]
pub struct Scheme {
    /// r, where no pattern says otherwise.
    pub rank: i64,
    /// The numerator of the scale, where no pattern says otherwise.
    pub alpha: f64,
    /// Whether the scale is alpha / sqrt(r) instead of alpha / r.
    pub rank_stabilized: bool,
    /// Other ranks.
    pub rank_pattern: Pattern<i64>,
    /// Other alphas.
    pub alpha_pattern: Pattern<f64>,
}

impl Scheme {
    /// What the settings say.
    pub fn of(settings: &LoraSettings) -> Result<Self> {
        let alphas = settings
            .alpha_pattern
            .iter()
            .map(|(pattern, alpha)| (pattern.clone(), *alpha as f64))
            .collect();
        let fault = |field: &str, error: String| Error::Adapter(format!("`{field}` {error}"));
        Ok(Self {
            rank: settings.rank,
            alpha: settings.alpha as f64,
            rank_stabilized: settings.use_rslora,
            rank_pattern: Pattern::new(&settings.rank_pattern)
                .map_err(|error| fault("rankPattern", error))?,
            alpha_pattern: Pattern::new(&alphas).map_err(|error| fault("alphaPattern", error))?,
        })
    }

    /// The rank of a module.
    pub fn rank_of(&self, module: &str) -> i64 {
        self.rank_pattern.of(module).unwrap_or(self.rank)
    }

    /// PEFT's `scaling` of a module: what B·A is multiplied by.
    pub fn scaling_of(&self, module: &str) -> f64 {
        let rank = self.rank_of(module) as f64;
        let alpha = self.alpha_pattern.of(module).unwrap_or(self.alpha);
        alpha
            / if self.rank_stabilized {
                rank.sqrt()
            } else {
                rank
            }
    }

    /// Refuses a pattern that hits none of the adapted modules: its author meant one.
    pub(super) fn refuse_idle_patterns(&self, modules: &[AdaptedModule]) -> Result<()> {
        let names = || modules.iter().map(|module| module.name.as_str());
        let idle = [
            ("rankPattern", self.rank_pattern.without_match(names())),
            ("alphaPattern", self.alpha_pattern.without_match(names())),
        ];
        match idle
            .into_iter()
            .find_map(|(field, idle)| Some((field, idle?)))
        {
            None => Ok(()),
            Some((field, pattern)) => Err(Error::Adapter(format!(
                "`{field}` has `{pattern}`, which matches no adapted module; expected the end of a name such as {}",
                names().next().unwrap_or_default()
            ))),
        }
    }
}

impl Scheme {
    /// Refuses a rank greater than that of the matrix (out, in) itself, which costs memory and can say nothing more.
    pub(super) fn refuse_rank_over(
        &self,
        module: &AdaptedModule,
        output: i64,
        input: i64,
    ) -> Result<()> {
        let most = output.min(input);
        let AdaptedModule { name, rank, .. } = module;
        if *rank <= most {
            return Ok(());
        }
        let last = name.rsplit('.').next().unwrap_or(name);
        let (field, cure) = match self.rank_pattern.of(name) {
            Some(_) => ("rankPattern", format!("lower it to at most {most} there")),
            None => (
                "rank",
                format!("lower it, or set `rankPattern: {{ {last}: {most} }}`"),
            ),
        };
        Err(Error::Adapter(format!(
            "`{field}` gives `{name}` the rank {rank}, but its matrix is {output} x {input} (out x in), expected at most \
             {most}: {cure}"
        )))
    }
}

/// A module that an adapter is on.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptedModule {
    /// Its full name, as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// r.
    pub rank: i64,
    /// What B·A is multiplied by.
    pub scaling: f64,
    /// Whether there is a magnitude for each output (DoRA).
    pub dora: bool,
}

/// Refuses an adapter that is not what the method says, naming the first module in which they differ. Both lists are in
/// the model's order.
pub(super) fn refuse_other(found: &[AdaptedModule], wanted: &[AdaptedModule]) -> Result<()> {
    let fault = |message: String| Err(Error::Adapter(message));
    let is_in = |list: &[AdaptedModule], name: &str| list.iter().any(|module| module.name == name);
    if let Some(alien) = found.iter().find(|module| !is_in(wanted, &module.name)) {
        return fault(format!(
            "`{}` is adapted, but the method's `targetModules` do not name it: set them to the adapter's",
            alien.name
        ));
    }
    if let Some(missing) = wanted.iter().find(|module| !is_in(found, &module.name)) {
        return fault(format!(
            "`{}` is not adapted, but the method's `targetModules` name it: set them to the adapter's",
            missing.name
        ));
    }
    for (found, wanted) in found.iter().zip(wanted) {
        let name = &found.name;
        if found.rank != wanted.rank {
            return fault(format!(
                "`{name}` has rank {}, but the method says {}: set `rank` and `rankPattern` to the adapter's",
                found.rank, wanted.rank
            ));
        }
        if found.dora != wanted.dora {
            let (has, says) = if found.dora {
                ("a", "false")
            } else {
                ("no", "true")
            };
            return fault(format!(
                "`{name}` has {has} magnitude vector, but the method's `useDora` is {says}: set it to {}",
                found.dora
            ));
        }
        if (found.scaling / wanted.scaling - 1.0).abs() > 1e-9 {
            return fault(format!(
                "`{name}` is scaled by {}, but by the method's `alpha` and rank by {}: set `alpha`, `alphaPattern` and \
                 `useRslora` to the adapter's",
                found.scaling, wanted.scaling
            ));
        }
    }
    Ok(())
}
