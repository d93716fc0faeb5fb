//! llama.cpp's names for the modules of a decoder, and its order of their rows.

use super::config::{DecoderConfig, LINEARS};

/// In the order of [`LINEARS`].
const PARTS: [&str; 7] = [
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
];

/// Names outside the blocks: llama.cpp's, Hugging Face's.
const OUTSIDE: [(&str, &str); 3] = [
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
];

/// Hugging Face's name of a module: `blk.3.attn_q` is `model.layers.3.self_attn.q_proj`. `None`:
/// not of a decoder as known here.
pub fn hugging_face_module(name: &str) -> Option<String> {
    if let Some((_, module)) = OUTSIDE.iter().find(|(gguf, _)| *gguf == name) {
        return Some((*module).to_owned());
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let module = match part {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        _ => LINEARS[PARTS.iter().position(|&p| p == part)?],
    };
    Some(format!("model.layers.{layer}.{module}"))
}

/// llama.cpp's name of a linear or an embedding: the reverse of [`hugging_face_module`].
pub fn gguf_module(module: &str) -> Option<String> {
    if let Some((gguf, _)) = OUTSIDE.iter().find(|(_, name)| *name == module) {
        return Some((*gguf).to_owned());
    }
    let (layer, linear) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let part = PARTS[LINEARS.iter().position(|&l| l == linear)?];
    Some(format!("blk.{layer}.{part}"))
}

/// Whether llama.cpp keeps the rows of q and k of this architecture so that RoPE's pairs lie side
/// by side (`permute` of its converter).
pub fn interleaves_heads(architecture: &str) -> bool {
    architecture == "llama"
}

impl DecoderConfig {
    /// Heads of a module whose rows llama.cpp keeps in another order; `None`: the order is the same.
    pub fn interleaved_heads(&self, module: &str) -> Option<usize> {
        if !interleaves_heads(&self.architecture) {
            None
        } else if module.ends_with("self_attn.q_proj") {
            Some(self.heads)
        } else if module.ends_with("self_attn.k_proj") {
            Some(self.kv_heads)
        } else {
            None
        }
    }
}

/// Where llama.cpp keeps row `row` of a matrix with `rows` rows in `heads` heads.
pub fn interleaved_row(row: usize, rows: usize, heads: usize) -> usize {
    let size = rows / heads;
    let (head, within) = (row / size, row % size);
    let (half, pair) = (within / (size / 2), within % (size / 2));
    head * size + 2 * pair + half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_llama_cpp_become_hugging_faces_and_back() {
        for (gguf, module) in [
            ("blk.3.attn_output", "model.layers.3.self_attn.o_proj"),
            ("blk.0.ffn_gate", "model.layers.0.mlp.gate_proj"),
            ("output", "lm_head"),
            ("token_embd", "model.embed_tokens"),
        ] {
            assert_eq!(hugging_face_module(gguf).as_deref(), Some(module));
            assert_eq!(gguf_module(module).as_deref(), Some(gguf));
        }
        assert_eq!(
            hugging_face_module("blk.11.ffn_norm").as_deref(),
            Some("model.layers.11.post_attention_layernorm")
        );
        assert_eq!(hugging_face_module("rope_freqs"), None);
        assert_eq!(gguf_module("model.layers.1.mlp.experts.3"), None);
    }

    #[test]
    fn rows_of_a_head_alternate_between_its_halves() {
        let order: Vec<usize> = (0..8).map(|row| interleaved_row(row, 8, 2)).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
