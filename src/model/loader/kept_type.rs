//! Which type a tensor is kept in when a base is made smaller: one rule for the files that `quantize` writes and for bases
//! that are quantized while loading, so that both compute the same. Pure.

use super::{DType, RawTensor};

/// What the rule says of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The type that it should have.
    pub wanted: DType,
    /// The type that it has: another one where its rows are not whole blocks of the wanted one.
    pub used: DType,
}

/// A tensor whose rows do not fit the wanted type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// Its name.
    pub tensor: String,
    /// Elements of a row.
    pub cols: usize,
    /// The type that it has instead.
    pub used: DType,
}

/// The type of tensor `name` (Hugging Face's) in a base whose matrices become `dtype`; `tied` as in the model's configuration.
///
/// Vectors are f32. An output matrix coarser than q6_k costs more than it saves. Rows that do not fit fall back to q8_0, and
/// to f16 where these do not fit either.
pub fn kept_type(name: &str, tensor: &RawTensor, dtype: DType, tied: bool) -> Kept {
    let wanted = wanted_type(name, tensor.rows, dtype, tied);
    Kept { wanted, used: usable_type(wanted, tensor.cols) }
}

/// Whether a tensor of this name has one dimension.
pub(super) fn is_vector(name: &str) -> bool {
    name.ends_with("norm.weight") || name.ends_with(".bias")
}

fn wanted_type(name: &str, rows: usize, dtype: DType, tied: bool) -> DType {
    let output = name == "lm_head.weight" || (tied && name == "model.embed_tokens.weight");
    match dtype {
        _ if rows == 1 || is_vector(name) => DType::F32,
        DType::Q5K | DType::Q4K | DType::Q5_0 | DType::Q4_0 if output => DType::Q6K,
        other => other,
    }
}

fn usable_type(wanted: DType, cols: usize) -> DType {
    [wanted, DType::Q8_0].into_iter().find(|dtype| dtype.row_bytes(cols).is_some()).unwrap_or(DType::F16)
}

/// Fallbacks in one line, for people: `24 tensors with rows of 896 are q8_0`.
pub fn summary(fallbacks: &[Fallback]) -> String {
    let mut groups = std::collections::BTreeMap::<(usize, &str), usize>::new();
    for fallback in fallbacks {
        *groups.entry((fallback.cols, fallback.used.name())).or_default() += 1;
    }
    let lines = groups.into_iter().map(|((cols, used), count)| {
        let are = if count == 1 { "tensor with rows of {} is" } else { "tensors with rows of {} are" };
        format!("{count} {} {used}", are.replace("{}", &cols.to_string()))
    });
    lines.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_fall_back_to_what_fits_the_rows() {
        assert_eq!(usable_type(DType::Q4K, 512), DType::Q4K);
        assert_eq!(usable_type(DType::Q4K, 96), DType::Q8_0);
        assert_eq!(usable_type(DType::Q4_0, 40), DType::F16);
        assert_eq!(usable_type(DType::Q8_0, 40), DType::F16);
        assert_eq!(usable_type(DType::BF16, 7), DType::BF16);
    }

    #[test]
    fn the_output_matrix_is_not_coarse() {
        let wanted = |name, tied| wanted_type(name, 300, DType::Q4K, tied);
        assert_eq!(wanted("lm_head.weight", false), DType::Q6K);
        assert_eq!(wanted("model.embed_tokens.weight", true), DType::Q6K);
        assert_eq!(wanted("model.embed_tokens.weight", false), DType::Q4K);
        assert_eq!(wanted("model.norm.weight", false), DType::F32);
        assert_eq!(wanted_type("lm_head.weight", 300, DType::Q8_0, false), DType::Q8_0);
    }

    #[test]
    fn fallbacks_are_counted() {
        let fallback = |cols, used| Fallback { tensor: String::new(), cols, used };
        let all = [fallback(96, DType::Q8_0), fallback(40, DType::F16), fallback(96, DType::Q8_0)];
        assert_eq!(summary(&all), "1 tensor with rows of 40 is f16, 2 tensors with rows of 96 are q8_0");
    }
}
