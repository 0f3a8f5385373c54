//! The names and shapes of a model's weights.

use super::config::ModelConfig;
use super::projection::Projection;
use super::wiring::QueryKeyNorms;

/// The name of an untied output matrix (V, H).
pub(crate) const HEAD: &str = "lm_head.weight";

impl ModelConfig {
    /// The linear layers of a layer, in the order of computation.
    pub const fn projections(&self) -> &'static [Projection] {
        if self.wiring.fused {
            &Projection::FUSED
        } else {
            &Projection::SEPARATE
        }
    }

    /// The name and shape of every weight, in the order of computation. A tied output matrix is not listed.
    pub fn tensors(&self) -> Vec<(String, Vec<i64>)> {
        let mut list = vec![(
            self.embedding_name(),
            vec![self.vocabulary_size, self.hidden_size],
        )];
        for layer in 0..self.layers {
            let norms = self.wiring.norms.names();
            let norms = norms
                .iter()
                .flat_map(|branch| [branch.before, branch.after]);
            list.extend(
                norms
                    .flatten()
                    .map(|norm| (self.norm_name(layer, norm), vec![self.hidden_size])),
            );
            list.extend(self.query_key_norms(layer));
            for projection in self.projections() {
                let (output, input) = projection.shape(self);
                let module = projection.module(self, layer);
                list.push((format!("{module}.weight"), vec![output, input]));
                if projection.has_bias(self) {
                    list.push((format!("{module}.bias"), vec![output]));
                }
            }
        }
        list.push((self.final_norm_name(), vec![self.hidden_size]));
        if !self.tied_embeddings {
            list.push((
                HEAD.to_owned(),
                vec![self.vocabulary_size, self.hidden_size],
            ));
        }
        list
    }

    /// The number of weights.
    pub fn parameters(&self) -> i64 {
        self.tensors()
            .iter()
            .map(|(_, shape)| shape.iter().product::<i64>())
            .sum()
    }

    /// The name of the embedding matrix (V, H).
    pub(crate) fn embedding_name(&self) -> String {
        format!("{}.embed_tokens.weight", self.wiring.decoder)
    }

    /// The name of the last norm's weight (H).
    pub(crate) fn final_norm_name(&self) -> String {
        format!("{}.norm.weight", self.wiring.decoder)
    }

    /// The name of the weight (H) of a layer's norm.
    pub(crate) fn norm_name(&self, layer: i64, norm: &str) -> String {
        format!("{}.layers.{layer}.{norm}.weight", self.wiring.decoder)
    }

    /// The names and shapes of the norms of queries and keys, in this order; empty where there are none.
    pub(crate) fn query_key_norms(&self, layer: i64) -> Vec<(String, Vec<i64>)> {
        let widths = match self.wiring.query_key_norms {
            None => return Vec::new(),
            Some(QueryKeyNorms::Head) => [self.head_dim; 2],
            Some(QueryKeyNorms::Projection) => {
                [self.heads, self.key_value_heads].map(|heads| heads * self.head_dim)
            }
        };
        ["self_attn.q_norm", "self_attn.k_norm"]
            .into_iter()
            .zip(widths)
            .map(|(norm, width)| (self.norm_name(layer, norm), vec![width]))
            .collect()
    }
}
