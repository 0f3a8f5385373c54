//! The weights of a GGUF file under Hugging Face's names and in its layout.
//!
//! llama.cpp rotates neighbouring elements of a head where transformers rotates its halves, so its converter reorders the
//! rows of q and k; here they are put back.

use std::collections::BTreeMap;
use std::path::Path;

use finetune_artifacts::finite;
use finetune_artifacts::gguf::{GgufFile, TensorInfo};
use finetune_numerics::architecture::{ModelConfig, Projection};
use finetune_numerics::model::WeightSource;
use finetune_numerics::ops;
use tch::{Kind, Tensor};

use super::{Error, StoredWeights, gguf_config};

/// The names of the norms of a layer: Hugging Face's, llama.cpp's.
const NORMS: [(&str, &str); 2] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
];
/// Tensors of fewer elements are dequantised by one thread.
const WORTH_THREADS: usize = 1 << 20;

/// The weights, dequantised one by one out of a mapped file.
#[derive(Debug)]
pub(super) struct Weights {
    file: GgufFile,
    /// For each Hugging Face name the name in the file, and the heads whose rows are put back.
    places: BTreeMap<String, Place>,
}

#[derive(Debug)]
struct Place {
    name: String,
    heads: Option<usize>,
}

impl Weights {
    /// Opens the file and checks that it holds exactly the tensors that the configuration calls for.
    pub(super) fn open(path: &Path, config: &ModelConfig) -> Result<Self, Error> {
        let file = GgufFile::open(path)?;
        let mut places = BTreeMap::new();
        for (key, shape) in config.tensors() {
            let place = place(&key, config).ok_or_else(|| {
                Error::invalid(format!("tensor `{key}`"), "it has no name in a GGUF file")
            })?;
            let info = file.tensor(&place.name)?;
            if !info
                .shape
                .iter()
                .map(|size| *size as i64)
                .eq(shape.iter().copied())
            {
                return Err(Error::invalid(
                    format!("{}: tensor `{}`", path.display(), place.name),
                    format!("it has shape {:?}, expected {shape:?}", info.shape),
                ));
            }
            // Refuses a type that cannot be dequantised before hours of other work.
            file.dequantize_rows(&place.name, 0..0, &mut [])?;
            places.insert(key, place);
        }
        if let Some((name, _)) = file.tensors().find(|(name, _)| {
            // Read with the configuration.
            *name != gguf_config::ROPE_FACTORS && !places.values().any(|place| place.name == *name)
        }) {
            return Err(Error::invalid(
                format!("{}: tensor `{name}`", path.display()),
                "it has no place in this architecture: without it the model would be another one",
            ));
        }
        Ok(Self { file, places })
    }

    /// A tensor in a type that libtorch has, its bytes as they are but for the order of rows.
    fn as_stored(&self, place: &Place, info: &TensorInfo, kind: Kind) -> ops::Result<Tensor> {
        let bytes = self
            .file
            .tensor_bytes(&place.name)
            .map_err(source(&place.name))?;
        let shape = shape(info);
        let fault = match kind {
            Kind::Half => finite::first_fault_f16(bytes),
            Kind::BFloat16 => finite::first_fault_bf16(bytes),
            _ => finite::first_fault_f32(bytes),
        };
        self.refuse_fault(place, info, fault)?;
        let Some(heads) = place.heads else {
            return Ok(Tensor::f_from_data_size(bytes, &shape, kind)?);
        };
        // The rows of a bias are its elements.
        let rows = info.shape.first().copied().unwrap_or(1);
        let width = bytes.len() / rows.max(1);
        let mut ordered = Vec::with_capacity(bytes.len());
        for wanted in 0..rows {
            let from = row_in_file(wanted, heads, rows) * width;
            ordered.extend_from_slice(&bytes[from..from + width]);
        }
        Ok(Tensor::f_from_data_size(&ordered, &shape, kind)?)
    }

    fn dequantized(&self, place: &Place, info: &TensorInfo) -> ops::Result<Tensor> {
        let mut values = vec![0f32; info.elements()];
        let (rows, width) = (info.rows(), info.row_length());
        let threads = if info.elements() < WORTH_THREADS {
            1
        } else {
            std::thread::available_parallelism().map_or(1, usize::from)
        };
        let share = rows.div_ceil(threads).max(1);
        let fill = |first: usize, out: &mut [f32]| match place.heads {
            None => self
                .file
                .dequantize_rows(&place.name, first..first + out.len() / width, out),
            Some(heads) => out.chunks_mut(width).enumerate().try_for_each(|(at, out)| {
                let row = row_in_file(first + at, heads, rows);
                self.file.dequantize_rows(&place.name, row..row + 1, out)
            }),
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = values
                .chunks_mut(share * width)
                .enumerate()
                .map(|(number, out)| scope.spawn(move || fill(number * share, out)))
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or(Ok(())))
        })
        .map_err(source(&place.name))?;
        self.refuse_fault(
            place,
            info,
            finite::first_fault_f32(bytemuck::cast_slice(&values)),
        )?;
        Ok(Tensor::f_from_slice(&values)?.f_view(shape(info).as_slice())?)
    }

    /// Refuses a tensor in which the element `fault` is no number.
    fn refuse_fault(
        &self,
        place: &Place,
        info: &TensorInfo,
        fault: Option<usize>,
    ) -> ops::Result<()> {
        let Some(index) = fault else {
            return Ok(());
        };
        let message = finite::fault(&info.shape, index);
        Err(ops::Error::Source {
            name: place.name.clone(),
            source: format!("{}: {message}", self.file.path().display()).into(),
        })
    }
}

fn shape(info: &TensorInfo) -> Vec<i64> {
    info.shape.iter().map(|size| *size as i64).collect()
}

fn source(name: &str) -> impl Fn(finetune_artifacts::gguf::Error) -> ops::Error + '_ {
    move |error| ops::Error::Source {
        name: name.to_owned(),
        source: Box::new(error),
    }
}

/// Where the row `wanted` of Hugging Face's order stands in the file: within each head, row (half, i) is row (i, half).
pub(crate) fn row_in_file(wanted: usize, heads: usize, rows: usize) -> usize {
    let head = rows / heads;
    let (start, within) = (wanted - wanted % head, wanted % head);
    let (half, place) = (within / (head / 2), within % (head / 2));
    start + 2 * place + half
}

fn place(key: &str, config: &ModelConfig) -> Option<Place> {
    let whole = |name: &str| {
        Some(Place {
            name: name.to_owned(),
            heads: None,
        })
    };
    match key {
        "model.embed_tokens.weight" => return whole("token_embd.weight"),
        "model.norm.weight" => return whole("output_norm.weight"),
        "lm_head.weight" => return whole("output.weight"),
        _ => {}
    }
    let (layer, rest) = key.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, what) = rest.rsplit_once('.')?;
    let last = part.rsplit('.').next();
    let projection = Projection::ALL
        .into_iter()
        .find(|projection| Some(projection.name()) == last);
    let name = match projection {
        Some(projection) => projection.gguf_name(),
        None => NORMS.iter().find(|(theirs, _)| *theirs == part)?.1,
    };
    Some(Place {
        name: format!("blk.{layer}.{name}.{what}"),
        heads: projection.and_then(|projection| turned_heads(projection, config)),
    })
}

/// The heads whose rows llama.cpp's converter reorders, of queries and keys; `None` of what it leaves as it is.
pub(crate) const fn turned_heads(projection: Projection, config: &ModelConfig) -> Option<usize> {
    match projection {
        Projection::Query => Some(config.heads as usize),
        Projection::Key => Some(config.key_value_heads as usize),
        _ => None,
    }
}

impl StoredWeights for Weights {}

impl WeightSource for Weights {
    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn tensor(&self, name: &str) -> ops::Result<Tensor> {
        let place = self.places.get(name).ok_or_else(|| ops::Error::Source {
            name: name.to_owned(),
            source: "there is no tensor of that name".into(),
        })?;
        let info = self.file.tensor(&place.name).map_err(source(name))?;
        match info.tensor_type.name() {
            "F32" => self.as_stored(place, info, Kind::Float),
            "F16" => self.as_stored(place, info, Kind::Half),
            "BF16" => self.as_stored(place, info, Kind::BFloat16),
            _ => self.dequantized(place, info),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::row_in_file;

    #[test]
    fn rows_of_a_head_go_back_from_pairs_to_halves() {
        // Two heads of four rows: the file has (0, 2, 1, 3) of each.
        let order: Vec<usize> = (0..8).map(|row| row_in_file(row, 2, 8)).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
