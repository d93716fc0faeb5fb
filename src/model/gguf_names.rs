//! llama.cpp's names for the modules of a decoder, and its order of their rows.

use super::config::DecoderConfig;
use super::family::Family;

/// Names within a block: llama.cpp's, Hugging Face's.
const PARTS: [(&str, &str); 12] = [
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// llama.cpp calls both of them so.
const FUSED_UP: (&str, &str) = ("ffn_up", "mlp.gate_up_proj");

/// Names outside the blocks: llama.cpp's, Hugging Face's.
const OUTSIDE: [(&str, &str); 3] = [
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
];

/// Hugging Face's name of a module of an architecture: `blk.3.attn_q` is
/// `model.layers.3.self_attn.q_proj`. `None`: not of a decoder as known here.
pub fn hugging_face_module(name: &str, architecture: &str) -> Option<String> {
    if let Some((_, module)) = OUTSIDE.iter().find(|(gguf, _)| *gguf == name) {
        return Some((*module).to_owned());
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let fused = Family::named(architecture).is_some_and(|family| family.fused);
    let module = match PARTS.iter().find(|(gguf, _)| *gguf == part) {
        Some(_) if fused && part == FUSED_UP.0 => FUSED_UP.1,
        Some((_, module)) => module,
        None => return None,
    };
    Some(format!("model.layers.{layer}.{module}"))
}

/// llama.cpp's name of a linear or an embedding: the reverse of [`hugging_face_module`].
pub fn gguf_module(module: &str) -> Option<String> {
    if let Some((gguf, _)) = OUTSIDE.iter().find(|(_, name)| *name == module) {
        return Some((*gguf).to_owned());
    }
    let (layer, linear) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let mut parts = PARTS.iter().chain([&FUSED_UP]);
    let (part, _) = parts.find(|(_, name)| *name == linear)?;
    Some(format!("blk.{layer}.{part}"))
}

/// llama.cpp's name of an architecture: Mistral is a LLaMA there.
pub fn gguf_architecture(architecture: &str) -> &str {
    match architecture {
        "mistral" => "llama",
        other => other,
    }
}

/// Whether llama.cpp keeps the rows of q and k of this architecture so that RoPE's pairs lie side
/// by side (`permute` of its converter).
pub fn interleaves_heads(architecture: &str) -> bool {
    Family::named(architecture).is_some_and(|family| family.interleaved_in_gguf)
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

/// The row that llama.cpp keeps at `row`: the reverse of [`interleaved_row`].
pub fn hugging_face_row(row: usize, rows: usize, heads: usize) -> usize {
    let size = rows / heads;
    let (head, within) = (row / size, row % size);
    head * size + (within % 2) * (size / 2) + within / 2
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
            assert_eq!(hugging_face_module(gguf, "llama").as_deref(), Some(module));
            assert_eq!(gguf_module(module).as_deref(), Some(gguf));
        }
        assert_eq!(
            hugging_face_module("blk.11.ffn_norm", "qwen3").as_deref(),
            Some("model.layers.11.post_attention_layernorm")
        );
        assert_eq!(hugging_face_module("rope_freqs", "llama"), None);
        assert_eq!(gguf_module("model.layers.1.mlp.experts.3"), None);
        for (gguf, module) in [
            ("blk.1.ffn_up", "model.layers.1.mlp.gate_up_proj"),
            ("blk.1.attn_qkv", "model.layers.1.self_attn.qkv_proj"),
        ] {
            assert_eq!(hugging_face_module(gguf, "phi3").as_deref(), Some(module));
            assert_eq!(gguf_module(module).as_deref(), Some(gguf));
        }
    }

    #[test]
    fn rows_of_a_head_alternate_between_its_halves() {
        let order: Vec<usize> = (0..8).map(|row| interleaved_row(row, 8, 2)).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7]);
        for row in 0..24 {
            assert_eq!(hugging_face_row(interleaved_row(row, 24, 3), 24, 3), row);
        }
    }
}
