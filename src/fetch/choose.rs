//! Which files of a repository are needed.

use anyhow::Result;

use super::Wanted;
use crate::config::hub::Repo;
use crate::error::input_error;

/// A file as the hub lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// Inside the repository.
    pub path: String,
    pub size: u64,
    /// SHA-256 of the content, of large files; else none.
    pub sha256: Option<String>,
    /// Git's SHA-1 of the file (of large ones: of their pointer).
    pub git: String,
}

fn extension(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// What the model's files are, besides weights: configs, tokenizers, chat templates.
fn describes(path: &str) -> bool {
    matches!(extension(path), "json" | "txt" | "model" | "jinja")
        && !path.ends_with(".bin.index.json")
}

const DATA: [&str; 12] = [
    "jsonl", "ndjson", "json", "csv", "txt", "caption", "png", "jpg", "jpeg", "webp", "gif", "bmp",
];

/// The files that are needed of all there are.
///
/// # Errors
/// There is nothing that can be used, or too much to choose from.
pub(super) fn choose(repo: &Repo, wanted: Wanted, all: &[Listed]) -> Result<Vec<Listed>> {
    let pick = |wanted: &dyn Fn(&str) -> bool| -> Vec<Listed> {
        all.iter()
            .filter(|file| wanted(&file.path))
            .cloned()
            .collect()
    };
    if let Some(file) = &repo.file {
        let found = pick(&|path| path == file);
        return match found.is_empty() {
            true => Err(input_error(format!(
                "{} has no file {file}; it has {}",
                repo.id(),
                some(all, |_| true)
            ))),
            false => Ok(found),
        };
    }
    if wanted == Wanted::Data {
        let found = pick(&|path| {
            let name = path.rsplit('/').next().unwrap_or(path);
            !name.starts_with('.') && DATA.contains(&extension(path).to_lowercase().as_str())
        });
        return match found.is_empty() {
            true => Err(input_error(format!(
                "{} has no .jsonl, .json, .csv or .txt file and no images, but {}; convert it and \
                 write the path",
                repo.id(),
                some(all, |_| true)
            ))),
            false => Ok(found),
        };
    }
    if all.iter().any(|file| file.path == "model_index.json") {
        return Ok(diffusers(all));
    }
    let root = |path: &str| !path.contains('/');
    let weights = pick(&|path| root(path) && extension(path) == "safetensors" && !is_adapter(path));
    // Sharded and whole weights of the same model lie beside each other now and then.
    let whole = |file: &Listed| file.path == "model.safetensors";
    let weights: Vec<Listed> = match weights.iter().any(whole) {
        true => weights.into_iter().filter(whole).collect(),
        false => weights,
    };
    let mut chosen = pick(&|path| root(path) && describes(path));
    if !weights.is_empty() {
        chosen.retain(|file| {
            file.path != "model.safetensors.index.json" || !weights.iter().any(whole)
        });
        chosen.extend(weights);
        return Ok(chosen);
    }
    let gguf = pick(&|path| extension(path) == "gguf");
    match (&gguf[..], wanted) {
        ([one], Wanted::Base) => return Ok(vec![one.clone()]),
        ([_, ..], Wanted::Base) => {
            return Err(input_error(format!(
                "{} has {} GGUF files: write which, as {}/{}; it has {}",
                repo.id(),
                gguf.len(),
                repo.id(),
                gguf[0].path,
                some(&gguf, |_| true)
            )));
        }
        _ => {}
    }
    let pickled = pick(&|path| root(path) && path == "pytorch_model.bin");
    if wanted == Wanted::Captioner && !pickled.is_empty() {
        chosen.extend(pickled);
        return Ok(chosen);
    }
    Err(input_error(format!(
        "{} has no weights that can be read (safetensors or GGUF), but {}; convert them, and write \
         the path",
        repo.id(),
        some(all, |_| true)
    )))
}

fn is_adapter(path: &str) -> bool {
    path.starts_with("adapter_model")
}

/// A diffusers pipeline: what its components need, each with one set of weights, and no checkpoint
/// in one file beside them.
fn diffusers(all: &[Listed]) -> Vec<Listed> {
    const SKIPPED: [&str; 3] = ["safety_checker", "feature_extractor", "image_encoder"];
    let folder = |path: &str| {
        path.rsplit_once('/')
            .map_or("", |(folder, _)| folder)
            .to_owned()
    };
    let variant = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        let stem = stem.split_once("-0").map_or(stem, |(stem, _)| stem);
        stem.contains('.')
    };
    let plain = |at: &str| {
        let mut there = all.iter().filter(|f| folder(&f.path) == at);
        there.any(|f| extension(&f.path) == "safetensors" && !variant(&f.path))
    };
    let needed = |file: &&Listed| {
        let path = file.path.as_str();
        let at = folder(path);
        if at.is_empty() {
            return path == "model_index.json";
        }
        if at.contains('/') || SKIPPED.contains(&at.as_str()) {
            return false;
        }
        match extension(path) {
            "safetensors" => !plain(&at) || !variant(path),
            _ => describes(path) && !path.ends_with(".fp16.json"),
        }
    };
    all.iter().filter(needed).cloned().collect()
}

/// The first few names.
fn some(files: &[Listed], wanted: impl Fn(&Listed) -> bool) -> String {
    let names: Vec<&str> = files
        .iter()
        .filter(|f| wanted(f))
        .map(|f| f.path.as_str())
        .collect();
    match names.len() {
        0 => "nothing".to_owned(),
        n if n <= 8 => names.join(", "),
        n => format!("{} and {} more", names[..8].join(", "), n - 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::hub::RepoKind;

    fn chosen(wanted: Wanted, paths: &[&str]) -> Result<Vec<String>> {
        let listed: Vec<Listed> = paths
            .iter()
            .map(|path| Listed {
                path: (*path).to_owned(),
                size: 1,
                sha256: None,
                git: String::new(),
            })
            .collect();
        let kind = RepoKind::Model;
        let repo = Repo::parse("the-owner/the-name", kind).unwrap();
        let files = choose(&repo, wanted, &listed)?;
        Ok(files.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn a_base_is_its_configs_tokenizer_and_safetensors_once() {
        let all = [
            ".gitattributes",
            "README.md",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "tf_model.h5",
            "onnx/model.onnx",
            "tokenizer.json",
            "tokenizer.model",
            "merges.txt",
            "chat_template.jinja",
            "original/consolidated.00.pth",
            "adapter_model.safetensors",
        ];
        assert_eq!(
            chosen(Wanted::Base, &all).unwrap(),
            [
                "config.json",
                "generation_config.json",
                "tokenizer.json",
                "tokenizer.model",
                "merges.txt",
                "chat_template.jinja",
                "model.safetensors"
            ]
        );
        let said = chosen(Wanted::Base, &["config.json", "pytorch_model.bin"]).unwrap_err();
        assert!(said.to_string().contains("no weights that can be read"));
        assert_eq!(
            chosen(Wanted::Captioner, &["config.json", "pytorch_model.bin"]).unwrap(),
            ["config.json", "pytorch_model.bin"]
        );
    }

    #[test]
    fn a_pipeline_is_its_components_in_full_precision_where_there_is_one() {
        let all = [
            "model_index.json",
            "v1-5-pruned.safetensors",
            "v1-5-pruned.ckpt",
            "README.md",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model.bin",
            "vae/config.json",
            "vae/diffusion_pytorch_model.fp16.safetensors",
            "tokenizer/vocab.json",
            "tokenizer/merges.txt",
            "scheduler/scheduler_config.json",
            "safety_checker/model.safetensors",
        ];
        assert_eq!(
            chosen(Wanted::Base, &all).unwrap(),
            [
                "model_index.json",
                "unet/config.json",
                "unet/diffusion_pytorch_model.safetensors",
                "vae/config.json",
                "vae/diffusion_pytorch_model.fp16.safetensors",
                "tokenizer/vocab.json",
                "tokenizer/merges.txt",
                "scheduler/scheduler_config.json"
            ]
        );
    }

    #[test]
    fn of_several_gguf_files_one_must_be_named() {
        assert_eq!(
            chosen(Wanted::Base, &["README.md", "a.gguf"]).unwrap(),
            ["a.gguf"]
        );
        let said = chosen(Wanted::Base, &["a.Q4_0.gguf", "a.Q8_0.gguf"])
            .unwrap_err()
            .to_string();
        assert!(said.contains("the-owner/the-name/a.Q4_0.gguf"), "{said}");
    }

    #[test]
    fn data_is_what_can_be_read() {
        let all = [
            "data/train.jsonl",
            "README.md",
            ".gitattributes",
            "a.parquet",
            "img/1.PNG",
        ];
        assert_eq!(
            chosen(Wanted::Data, &all).unwrap(),
            ["data/train.jsonl", "img/1.PNG"]
        );
        assert!(chosen(Wanted::Data, &["a.parquet"]).is_err());
    }
}
